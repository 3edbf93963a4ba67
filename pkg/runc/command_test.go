// SPDX-License-Identifier: Apache-2.0

package runc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// TestForward: the runtime is given a socket to connect to, whose path is short wherever the bundle is.
func TestForward(t *testing.T) {
	s, dir := fake(t, `echo "$3" >$dir/socket.next; mv $dir/socket.next $dir/socket; read x <$dir/done`)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "bundles", id), 0o755), unix.Mkfifo(filepath.Join(dir, "done"), 0o600)); err != nil {
		t.Fatal(err)
	}
	go func() { // the runtime's part; it ends with the test, which waits for what it says
		path := ""
		for path == "" && t.Context().Err() == nil {
			data, _ := os.ReadFile(filepath.Join(dir, "socket"))
			path = strings.TrimSpace(string(data))
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
		} else {
			fmt.Fprint(conn, path)
			conn.Close()
		}
		_ = os.WriteFile(filepath.Join(dir, "done"), []byte("\n"), 0)
	}()
	conn, err := s.Forward(t.Context(), "", id, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if path, err := io.ReadAll(conn); err != nil || len(path) > 50 || !strings.HasSuffix(string(path), "/port-80-1") {
		t.Errorf("the socket is %q, %v", path, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "bundles", id, "port-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestForwardIsRefused(t *testing.T) {
	s, dir := fake(t, `echo '{"level":"error","msg":"connection refused"}' >/dev/stderr; exit 1`)
	if _, err := s.Forward(t.Context(), "", id, 80); err == nil || errdefs.IsUnavailable(err) {
		t.Errorf("a pod without a bundle: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "bundles", id), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Forward(t.Context(), "", id, 80); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "port 80 of pod 3f0c: fake port-forward: connection refused") {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := s.Forward(t.Context(), "none", id, 80); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown handler: %v", err)
	}
}

func TestUsage(t *testing.T) {
	s, dir := fake(t, `echo "$@" >$dir/said; cat $dir/answer`)
	for answer, want := range map[string]runc.Usage{
		`{"type":"stats","data":{"cpu":{"usage":{"total":7000}},"memory":{"usage":{"usage":4096}}}}`: {CPU: 7000, Memory: 4096},
		`{"type":"stats"`: {},
	} {
		if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(answer), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Usage(t.Context(), "", id); got != want || (err == nil) != (want != runc.Usage{}) {
			t.Errorf("%s: %+v, %v", answer, got, err)
		}
	}
	if said, _ := os.ReadFile(filepath.Join(dir, "said")); string(said) != "events --stats 3f0c\n" {
		t.Errorf("the runtime was told %q", said)
	}
	if s.Accounts("") || s.Accounts("none") {
		t.Error("a runtime whose containers are processes is to be asked what they use")
	}
}
