// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func code(t *testing.T, err error, want codes.Code, mention ...string) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("error %v, want code %s", err, want)
		return
	}
	for _, m := range mention {
		if !strings.Contains(err.Error(), m) {
			t.Errorf("error %q does not mention %q", err, m)
		}
	}
}

func TestPodLife(t *testing.T) {
	d := node(t)
	config := d.PodConfig("web")
	pod := d.Pod(t, config)
	ctx := t.Context()

	s, err := d.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	ip := s.Status.Network.GetIp()
	if s.Status.State != cri.PodSandboxState_SANDBOX_READY || net.ParseIP(ip) == nil || s.Status.CreatedAt == 0 {
		t.Fatalf("status %v", s.Status)
	}
	if !strings.Contains(s.Info["info"], "trace") {
		t.Errorf("verbose info has no trace: %v", s.Info)
	}

	c := d.Run(t, pod, nodetest.ContainerConfig("app", "serve", "8080"), config)
	d.AwaitLog(t, "app", "serving on 8080")
	answer := dial(t, ip+":8080")
	if answer != "hello from testbox\n" {
		t.Errorf("the pod answers %q", answer)
	}
	if out, _, code := d.Exec(t, c, "/bin/testbox", "env"); code != 0 || !strings.Contains(out, "FROM_IMAGE=yes") {
		t.Errorf("exec env: %q, code %d", out, code)
	}

	if _, err := d.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if st := d.Status(t, c); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
		t.Errorf("after StopPodSandbox: %v", st)
	}
	for range 2 { // both are idempotent
		if _, err := d.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Errorf("repeated stop: %v", err)
		}
	}
	for range 2 {
		if _, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Errorf("repeated remove: %v", err)
		}
	}
	if err := d.Remains(); err != nil && strings.Contains(err.Error(), pod) {
		t.Error(err)
	}
}

func dial(t *testing.T, address string) string {
	t.Helper()
	var answer string
	nodetest.Eventually(t, 5*time.Second, "pod answers at "+address, func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		c.(*net.TCPConn).CloseWrite()
		data, err := io.ReadAll(c)
		answer = string(data)
		return err == nil
	})
	return answer
}

func TestExitCodesAndReasons(t *testing.T) {
	d := node(t)
	config := d.PodConfig("exits")
	pod := d.Pod(t, config)
	for _, want := range []struct {
		name   string
		args   []string
		code   int32
		reason string
	}{
		{"ok", []string{"exit", "0"}, 0, "Completed"},
		{"seven", []string{"exit", "7"}, 7, "Error"},
		{"late", []string{"sleep", "1", "3"}, 3, "Error"},
	} {
		t.Run(want.name, func(t *testing.T) {
			got := d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig(want.name, want.args...), config))
			if got.ExitCode != want.code || got.Reason != want.reason || got.FinishedAt < got.StartedAt || got.StartedAt == 0 {
				t.Errorf("status %v, want code %d %s", got, want.code, want.reason)
			}
		})
	}
	t.Run("oom", func(t *testing.T) {
		c := nodetest.ContainerConfig("oom", "hog", "64")
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 24 << 20, MemorySwapLimitInBytes: 24 << 20}
		if got := d.AwaitExit(t, d.Run(t, pod, c, config)); got.Reason != "OOMKilled" || got.ExitCode == 0 {
			t.Errorf("status %v, want OOMKilled", got)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		c := nodetest.ContainerConfig("missing")
		c.Command = []string{"/no/such/program"}
		id := d.Create(t, pod, c, config)
		_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
		code(t, err, codes.InvalidArgument, "/no/such/program", id)
		if got := d.Status(t, id); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 128 || got.Reason != "StartError" {
			t.Errorf("status %v, want StartError 128", got)
		}
	})
	for name, command := range map[string]string{"directory": "/etc", "data": "/etc/passwd"} {
		t.Run("a "+name+" for a program", func(t *testing.T) {
			c := nodetest.ContainerConfig(name)
			c.Command = []string{command}
			id := d.Create(t, pod, c, config)
			_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
			code(t, err, codes.InvalidArgument, command, id)
			if got := d.Status(t, id); got.ExitCode != 128 || got.Reason != "StartError" || got.Message == "" {
				t.Errorf("status %v, want StartError 128", got)
			}
		})
	}
}

func TestLogs(t *testing.T) {
	d := node(t)
	config := d.PodConfig("logs")
	pod := d.Pod(t, config)
	const n = 20000
	d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig("lines", "lines", fmt.Sprint(n)), config))
	got := strings.Split(strings.TrimSuffix(d.LogOf(t, "lines"), "\n"), "\n")
	if len(got) != n {
		t.Fatalf("%d lines in the log, want %d", len(got), n)
	}
	for i, line := range got {
		if line != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
	d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig("long", "bytes", "100000"), config))
	if text := d.LogOf(t, "long"); len(strings.TrimSuffix(text, "\n")) != 100000 {
		t.Errorf("a line of 100000 bytes has %d in the log", len(text))
	}
}

func TestReopenLog(t *testing.T) {
	d := node(t)
	config := d.PodConfig("rotate")
	pod := d.Pod(t, config)
	id := d.Run(t, pod, nodetest.ContainerConfig("app", "lines", "0", "10"), config)
	d.AwaitLog(t, "app", "line 3")
	path := filepath.Join(d.LogDir, "app.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 5*time.Second, "the new log has lines", func() bool { info, err := os.Stat(path); return err == nil && info.Size() > 0 })
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(path + ".1")
	current, _ := os.ReadFile(path)
	for i, line := range strings.Split(strings.TrimSuffix(string(old)+string(current), "\n"), "\n") {
		if !strings.HasSuffix(line, fmt.Sprintf(" F line %d", i+1)) {
			t.Fatalf("line %d over both files is %q", i+1, line)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := d.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id})
	code(t, err, codes.FailedPrecondition, id)
	if _, err := os.Stat(path); err == nil {
		t.Error("a refused reopen made a new file")
	}
}

func TestStop(t *testing.T) {
	d := node(t)
	config := d.PodConfig("stop")
	pod := d.Pod(t, config)
	ctx := t.Context()
	t.Run("orderly", func(t *testing.T) {
		id := d.Run(t, pod, nodetest.ContainerConfig("orderly", "sleep"), config)
		d.AwaitLog(t, "orderly", "sleeping")
		if _, err := d.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
			t.Fatal(err)
		}
		if got := d.Status(t, id); got.ExitCode != 0 || got.Reason != "Completed" {
			t.Errorf("status %v", got)
		}
		if _, err := d.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
			t.Errorf("second stop: %v", err)
		}
	})
	t.Run("a later stop with less grace kills sooner, one signal only", func(t *testing.T) {
		id := d.Run(t, pod, nodetest.ContainerConfig("stubborn", "stubborn"), config)
		d.AwaitLog(t, "stubborn", "ready")
		var wg sync.WaitGroup
		began := time.Now()
		for _, grace := range []int64{60, 30, 1} {
			wg.Go(func() {
				if _, err := d.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
		if n := strings.Count(d.LogOf(t, "stubborn"), "got TERM"); n != 1 {
			t.Errorf("the container got TERM %d times", n)
		}
		if got := d.Status(t, id); got.ExitCode != 137 {
			t.Errorf("status %v", got)
		}
	})
}

func TestSharedPIDNamespaceReaps(t *testing.T) {
	d := node(t)
	config := d.PodConfig("shared")
	config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	pod := d.Pod(t, config)
	c := nodetest.ContainerConfig("app", "sleep")
	c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	id := d.Run(t, pod, c, config)
	if out, _, _ := d.Exec(t, id, "/bin/testbox", "pid1"); strings.TrimSpace(out) != "pause" {
		t.Errorf("PID 1 is %q, want pause", out)
	}
	d.Exec(t, id, "/bin/testbox", "orphans", "20")
	nodetest.Eventually(t, 5*time.Second, "pause reaps the orphans", func() bool {
		out, _, _ := d.Exec(t, id, "/bin/testbox", "zombies")
		return strings.TrimSpace(out) == "0"
	})
}

func TestRetriedRunJoins(t *testing.T) {
	d := node(t)
	config := d.PodConfig("twice")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.PodSandboxId
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("ids differ: %v", ids)
		}
	}
	other := proto.Clone(config).(*cri.PodSandboxConfig)
	other.Hostname = "another"
	_, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: other})
	code(t, err, codes.AlreadyExists, ids[0])
	if _, err := d.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: ids[0]}); err != nil {
		t.Error(err)
	}
}

// A caller that gives up gets its deadline; the work goes on and the next
// request has the result.
func TestImpatientCaller(t *testing.T) {
	d := node(t)
	config := d.PodConfig("impatient")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err == nil {
		t.Fatal("a pod in 5 ms: the test proves nothing")
	}
	code(t, err, codes.DeadlineExceeded)
	d.Pod(t, config)
	l, err := d.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(l.Items) != 1 {
		t.Errorf("%d pods, %v; want the one", len(l.GetItems()), err)
	}
}

func TestNoDescriptorLeaksIn(t *testing.T) {
	d := node(t)
	config := d.PodConfig("fds")
	pod := d.Pod(t, config)
	id := d.Run(t, pod, nodetest.ContainerConfig("fds", "fds"), config)
	d.AwaitExit(t, id)
	check := func(text string) {
		for line := range strings.Lines(text) {
			fd, target, _ := strings.Cut(strings.TrimSpace(line), " ")
			// Go's own runtime reads its CPU limit from the container's cgroup.
			if fd > "2" && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/fs/cgroup/") && !strings.Contains(target, "anon_inode:[event") {
				t.Errorf("descriptor %s is %s", fd, target)
			}
		}
	}
	check(d.LogOf(t, "fds"))
	shell := d.Run(t, pod, nodetest.ContainerConfig("holder", "sleep"), config)
	out, _, _ := d.Exec(t, shell, "/bin/testbox", "fds")
	check(out)
}
