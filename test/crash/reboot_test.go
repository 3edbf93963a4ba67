// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestReboot makes a daemon believe that the machine was restarted: what ran
// is gone, the state directory with it, and the boot id is another.
func TestReboot(t *testing.T) {
	d := start(t)
	warm(t, d)
	clean := d.Look(t)
	w, idle := started(t, d), newSubject(t, d)
	idle.must(idle.run, idle.create)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	powerOff(t, d)
	if err := os.WriteFile(filepath.Join(d.Layout().Records(), "boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := d.Status(t, w.id); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 255 || s.Reason != "NodeRebooted" {
		t.Errorf("the container that ran: %v", s)
	}
	r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: w.pod})
	if err != nil || r.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("its pod: %v, %v", r, err)
	}
	if text := d.LogOf(t, w.container.Metadata.Name); !strings.Contains(text, "sleeping") {
		t.Errorf("its log: %q", text)
	}
	if err := errors.Join(idle.stopPod(), idle.removePod(), w.stopPod(), w.removePod()); err != nil {
		t.Error(err)
	}
	again := started(t, d)
	again.clear(clean)
}

// powerOff ends the monitor and every process of the daemon's containers, and takes
// away what a restart of the machine takes away.
func powerOff(t *testing.T, d *nodetest.Node) {
	t.Helper()
	monitor := d.MonitorPID()
	if monitor == 0 {
		t.Fatal("no monitor")
	}
	killed := []int{monitor}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && d.Rooted(filepath.Base(dir)) {
			killed = append(killed, pid)
		}
	}
	for _, pid := range killed {
		unix.Kill(pid, unix.SIGKILL)
	}
	nodetest.Eventually(t, 10*time.Second, "the processes have ended", func() bool {
		return !slices.ContainsFunc(killed, func(pid int) bool { return unix.Kill(pid, 0) == nil })
	})
	for _, m := range d.Mounts() {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, path := range d.NetNS() {
		unix.Unmount(path, unix.MNT_DETACH)
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	nodetest.Eventually(t, 10*time.Second, "the links of the namespaces are gone", func() bool {
		ports, err := d.Ports()
		return err == nil && len(ports) == 0
	})
	groups := d.Cgroups()
	for _, group := range slices.Backward(groups) {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(d.Dir, "state")); err != nil {
		t.Fatal(err)
	}
}
