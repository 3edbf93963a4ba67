// SPDX-License-Identifier: Apache-2.0

package runc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/runc"
)

const id = "3f0c"

// fake is a service whose runtime is a shell script. $verb is the command, $dir
// a directory to write to; the container's state is there.
func fake(t *testing.T, script string) (*runc.Service, string) {
	t.Helper()
	dir := t.TempDir()
	path, root := filepath.Join(dir, "fake"), filepath.Join(dir, "root")
	text := fmt.Sprintf("#!/bin/sh\nset -e\ndir=%s\nshift 6\nverb=$1\n%s\n", dir, script)
	err := errors.Join(os.MkdirAll(filepath.Join(root, id), 0o755), os.WriteFile(path, []byte(text), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	s, err := runc.New(runc.Options{
		Handlers: []runc.Handler{{Name: "fake", Path: path, Root: root}}, Default: "fake",
		Bundles: filepath.Join(dir, "bundles"), Locks: filepath.Join(dir, "locks"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestCommandErrors(t *testing.T) {
	for _, tc := range []struct {
		name, script, want string
		class              func(error) bool
	}{
		{"message", `echo '{"level":"error","msg":"no such limit"}' >/dev/stderr; exit 1`, "fake update: no such limit", nil},
		{"plain", `echo first >&2; echo last >&2; exit 1`, "fake update: last", nil},
		{"silent", `exit 7`, "fake update: exit code 7", nil},
		{"killed", `echo word >&2; kill -9 $$`, "fake update: killed by signal killed: word", nil},
		{"class", `echo '{"level":"error","msg":"container not running"}' >&2; exit 1`, "fake update 3f0c: container not running", errdefs.IsFailedPrecondition},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := fake(t, tc.script)
			err := s.Update(t.Context(), "", id, &specs.LinuxResources{})
			if err == nil || err.Error() != tc.want || tc.class != nil && !tc.class(err) {
				t.Errorf("error %q, want %q", err, tc.want)
			}
		})
	}
}

func TestUpdateGivesTheResources(t *testing.T) {
	s, dir := fake(t, `echo "$@" >$dir/said; cat >>$dir/said`)
	shares := uint64(77)
	if err := s.Update(t.Context(), "", id, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}); err != nil {
		t.Error(err)
	}
	if said, _ := os.ReadFile(filepath.Join(dir, "said")); !strings.HasPrefix(string(said), "update --resources - 3f0c\n") || !strings.Contains(string(said), "77") {
		t.Errorf("the runtime was told %q", said)
	}
}

// TestHooksChildHoldsNobodyUp compares with the time that what a hook left
// running takes, which is longer than the limit of a command.
func TestHooksChildHoldsNobodyUp(t *testing.T) {
	s, dir := fake(t, `sleep 600 & echo $! >$dir/child`)
	began := time.Now()
	if err := s.Delete(t.Context(), "", id); err != nil || time.Since(began) > 25*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	data, _ := os.ReadFile(filepath.Join(dir, "child"))
	var child int
	fmt.Sscan(string(data), &child)
	if err := unix.Kill(child, unix.SIGKILL); err != nil {
		t.Errorf("what the hook left running: %v", err)
	}
}

// TestDeleteFinishes gives a delete up in its middle: it is let finish, and the
// next one waits for it.
func TestDeleteFinishes(t *testing.T) {
	s, dir := fake(t, `
echo begun >>$dir/calls
sleep 1
rmdir $dir/root/3f0c
head -c 100000 /dev/zero >/dev/stderr
echo hooks >>$dir/calls`)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "calls")); err == nil {
				cancel()
				return
			}
		}
	}()
	if err := s.Delete(ctx, "", id); !errors.Is(err, context.Canceled) {
		t.Errorf("delete that was given up: %v", err)
	}
	if err := s.Delete(t.Context(), "", id); err != nil {
		t.Error(err)
	}
	if calls, _ := os.ReadFile(filepath.Join(dir, "calls")); string(calls) != "begun\nhooks\n" {
		t.Errorf("calls %q", calls)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "locks")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
