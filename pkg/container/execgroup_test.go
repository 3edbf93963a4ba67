// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// A command removes the cgroups that earlier ones had to leave, but neither one
// that another command is about to enter nor what is not a command's.
func TestExecGroupsAreSwept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	s := New(Options{})
	c := state.Container{ID: state.ContainerID(state.NewID())}
	c.Cgroup = "/cri-test-" + string(c.ID)
	for _, dir := range cgroup.Dirs(c.Cgroup) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := cgroup.Remove(context.Background(), c.Cgroup); err != nil {
			t.Error(err)
		}
	})
	first, endFirst, err := s.makeExecGroup(c)
	if err != nil {
		t.Fatal(err)
	}
	parent := filepath.Dir(first.Dir)
	for _, name := range []string{"exec-0123456789ab", "other"} {
		if err := os.Mkdir(filepath.Join(parent, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	second, endSecond, err := s.makeExecGroup(c)
	if err != nil {
		t.Fatal(err)
	}
	there := func(want bool, dirs ...string) {
		t.Helper()
		for _, dir := range dirs {
			if _, err := os.Stat(dir); (err == nil) != want {
				t.Errorf("%s: %v, want it there: %v", filepath.Base(dir), err, want)
			}
		}
	}
	there(true, first.Dir, second.Dir, filepath.Join(parent, "other"))
	there(false, filepath.Join(parent, "exec-0123456789ab"))
	endFirst()
	endSecond()
	there(false, first.Dir, second.Dir)
	if len(s.execs) > 0 {
		t.Errorf("still known: %v", s.execs)
	}
}

// A command beside its container's end finds the container's cgroup gone.
func TestExecGroupOfNoContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	s := New(Options{})
	_, _, err := s.makeExecGroup(state.Container{Cgroup: "/cri-test-" + state.NewID()})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v", err)
	}
	if len(s.execs) > 0 {
		t.Errorf("still known: %v", s.execs)
	}
}
