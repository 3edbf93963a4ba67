// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

func TestCgroupIsOf(t *testing.T) {
	const id = "0123abc"
	for path, want := range map[string]bool{
		"/kubepods/pod1/0123abc": true, "/elsewhere/cri-0123abc.scope": true,
		"kubepods-pod1.slice:cri:0123abc": true, ":cri:0123abc": true,
		"/": false, "": false, "/kubepods": false, "/kubepods/0123abc/..": false, "/0123abc/below": false, "/kubepods/0123abc/": false,
		"kubepods/0123abc": false, "../0123abc": false, "/0123": false, "a:0123abc:b": false,
		"system.slice:cri:other": false, "0123abc.slice:cri:": false, "a.slice:cri:0123abc.slice": false, "/x:y:0123abc": false,
	} {
		if got := cgroup.IsOf(path, id); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
	if cgroup.IsOf("/", "") {
		t.Error("the root is a container's without an id")
	}
}
