// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestExecSync(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "exec")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	ctx := t.Context()
	call := func(timeout int64, args ...string) (*cri.ExecSyncResponse, error) {
		return d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: append([]string{tb}, args...), Timeout: timeout})
	}
	// children are the living processes of the container besides its first.
	children := func() int {
		found := 0
		dirs, _ := filepath.Glob(filepath.Join("/proc", "[0-9]*", "cgroup"))
		for _, file := range dirs {
			// What PID 1 has yet to reap is dead, not left running.
			stat, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
			if data, _ := os.ReadFile(file); strings.Contains(string(data), id) && !strings.Contains(string(stat), ") Z ") {
				found++
			}
		}
		return found - 1
	}
	t.Run("streams and code", func(t *testing.T) {
		if out, stderr, code := d.Exec(t, id, tb, "echo", "to", "stdout"); out != "to stdout\n" || stderr != "" || code != 0 {
			t.Errorf("%q, %q, %d", out, stderr, code)
		}
		if out, stderr, code := d.Exec(t, id, tb, "err", "to", "stderr"); out != "" || stderr != "to stderr\n" || code != 0 {
			t.Errorf("%q, %q, %d", out, stderr, code)
		}
		if _, _, code := d.Exec(t, id, tb, "exit", "42"); code != 42 {
			t.Errorf("code %d, want 42", code)
		}
	})
	t.Run("more output than fits", func(t *testing.T) {
		r, err := call(60, "bytes", "20000000")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(r.Stdout); n < 15<<20 || n > 16<<20 || r.ExitCode != 0 {
			t.Errorf("%d bytes, code %d; want what fits of 16 MiB", n, r.ExitCode)
		}
	})
	t.Run("timeout kills the tree", func(t *testing.T) {
		before := children()
		_, err := call(1, "tree", "600")
		code(t, err, codes.DeadlineExceeded, id)
		if after := children(); after != before {
			t.Errorf("%d processes before, %d after", before, after)
		}
	})
	t.Run("a caller that leaves", func(t *testing.T) {
		before := children()
		_, err := d.Runtime.ExecSync(nodetest.Within(t, 500*time.Millisecond), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb, "tree", "600"}})
		code(t, err, codes.DeadlineExceeded)
		nodetest.Eventually(t, patience, fmt.Sprintf("%d processes, as before", before), func() bool { return children() == before })
	})
	t.Run("a grandchild that holds the pipes", func(t *testing.T) {
		began := time.Now()
		r, err := call(30, "hold", "600")
		if err != nil || !strings.Contains(string(r.Stdout), "held\n") || r.ExitCode != 0 {
			t.Errorf("%v, %v", r, err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		for _, program := range []string{"/no/such/program", "no-such-program", "/etc", "/etc/passwd"} {
			_, err := d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{program}})
			code(t, err, codes.InvalidArgument, id, program)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		errs := make(chan error, 20)
		for range cap(errs) {
			go func() {
				r, err := call(60, "echo", "hi")
				if err == nil && string(r.Stdout) != "hi\n" {
					t.Errorf("output %q", r.Stdout)
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("not running", func(t *testing.T) {
		made := d.Create(t, pod, inHostNet("made", "sleep"), p)
		_, err := d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: made, Cmd: []string{tb}})
		code(t, err, codes.FailedPrecondition, made, "created")
	})
}

func TestStopSignals(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	image := testboxImage(t)
	writeLayout(t, preload, testImage, image)
	image.Config.StopSignal = "SIGQUIT"
	const quits = "cri-shim.test/quits:1"
	writeLayout(t, preload, quits, image)
	d := startPreloaded(t, preload, quits)
	pod, p := quickPod(t, d, "signals")
	for name, c := range map[string]struct {
		image  string
		signal cri.Signal
		want   string
	}{
		"default": {testImage, cri.Signal_SIGNAL_RUNTIME_DEFAULT, "SIGTERM"},
		"config":  {testImage, cri.Signal_SIGNAL_SIGUSR1, "SIGUSR1"},
		"image":   {quits, cri.Signal_SIGNAL_RUNTIME_DEFAULT, "SIGQUIT"},
		"both":    {quits, cri.Signal_SIGNAL_SIGUSR2, "SIGUSR2"},
	} {
		cc := inHostNet(name, "trap")
		cc.Image.Image, cc.StopSignal = c.image, c.signal
		id := d.Run(t, pod, cc, p)
		d.AwaitLog(t, name, "trapping")
		if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
			t.Error(err)
		}
		st := d.Status(t, id)
		if st.ExitCode != 40 || st.StopSignal.String() != "SIGNAL_"+c.want {
			t.Errorf("%s: status %v, want code 40 and signal %s", name, st, c.want)
		}
		contains(t, name, d.LogOf(t, name), "got "+c.want)
	}
}

// A command that leaves something running leaves its cgroup too: until a later
// command, not for the life of the container, or a probe would fill the node.
func TestExecCgroupsDoNotPileUp(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "probes")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	path := info(t, d, id).CgroupsPath
	groups := func() (found []string) {
		for _, dir := range cgroupsOf(path) {
			some, _ := filepath.Glob(filepath.Join(dir, "exec-*"))
			found = append(found, some...)
		}
		return found
	}
	for range 3 {
		exec(t, d, id, "orphans", "3")
	}
	exec(t, d, id, "hold", "1000")
	held := func() int {
		exec(t, d, id, "exit", "0")
		return len(groups())
	}
	nodetest.Eventually(t, patience, "only the cgroup that is in use is left", func() bool { return held() == 1 })
	if n := held(); n != 1 {
		t.Errorf("the cgroup of what still runs is gone: %v", groups())
	}
}
