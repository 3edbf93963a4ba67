// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a new monitor does not take over has ended, as far as anybody can know:
// the daemon learns of it from the new monitor, without a restart of its own,
// and everything of it can be stopped and removed. The rest runs on.
func TestMonitorLosesContainers(t *testing.T) {
	d := node(t)
	config, other := d.PodConfig("loses"), d.PodConfig("loses-pause")
	pod, dead := d.Pod(t, config), d.Pod(t, other)
	lost := d.Run(t, pod, nodetest.ContainerConfig("lost", "sleep"), config)
	inDead := d.Run(t, dead, nodetest.ContainerConfig("in-dead", "sleep"), other)
	kept := d.Run(t, pod, nodetest.ContainerConfig("kept", "lines", "0", "5"), config)
	d.AwaitLog(t, "kept", "line 3")
	pid := info(t, d, lost).PID
	successor(t, d, func(monitor string) {
		for _, id := range []string{lost, dead} {
			if err := os.RemoveAll(filepath.Join(monitor, id)); err != nil {
				t.Error(err)
			}
		}
	})
	began := time.Now()
	if st := d.AwaitExit(t, lost); st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Errorf("the container that was lost: %v", st)
	}
	t.Logf("known after %s", time.Since(began))
	nodetest.Eventually(t, 20*time.Second, "no process of it is left", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	d.AwaitExit(t, inDead)
	if s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: dead}); err != nil || s.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod whose pause was lost: %v, %v", s, err)
	}
	if st := d.Status(t, kept); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container that was taken over: %v", st)
	}
	awaitLines(t, d, "kept", 5)
	began = time.Now()
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: lost, Timeout: 30}); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("stop what was lost: %v after %s", err, time.Since(began))
	}
	remove(t, d, lost)
	removePod(t, d, dead)
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// successor kills the monitor, does something to its directory, and waits for
// the next monitor. The daemon is stopped meanwhile, for it would start one.
func successor(t *testing.T, d *nodetest.Node, meanwhile func(dir string)) {
	t.Helper()
	before := monitorPID(t, d)
	daemon, err := os.FindProcess(d.PID())
	if err == nil {
		err = daemon.Signal(syscall.SIGSTOP)
	}
	if err == nil {
		err = syscall.Kill(before, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 20*time.Second, "the monitor is gone", func() bool {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", before))
		return len(args) == 0
	})
	meanwhile(d.Layout().Monitor())
	if err := daemon.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
