// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestOtherNamespaceIsSaidAtConnect has a monitor in another mount namespace, and
// in another PID namespace, than its client.
func TestOtherNamespaceIsSaidAtConnect(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	for file, attr := range map[string]syscall.SysProcAttr{
		"mnt": {Unshareflags: syscall.CLONE_NEWNS}, // not Cloneflags: it keeps our mounts from the machine's
		"pid": {Cloneflags: syscall.CLONE_NEWPID},
	} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			socket := filepath.Join(dir, "sock")
			cmd := exec.Command(monitornode.Self(t), monitornode.AsMonitor, "--dir", filepath.Join(dir, "m"), "--socket", socket)
			attr.Pdeathsig = syscall.SIGKILL
			cmd.SysProcAttr = &attr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			monitornode.Eventually(t, "the monitor", func() bool { _, err := os.Stat(socket); return err == nil })
			client := monitor.NewClient(monitor.ClientOptions{Socket: socket, Log: slog.New(slog.DiscardHandler)})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = client.Run(ctx) }()
			defer func() { stop(); <-done }()
			own, err := os.Readlink("/proc/self/ns/" + file)
			if err != nil {
				t.Fatal(err)
			}
			monitornode.Eventually(t, "the reason", func() bool {
				err := client.Ready()
				if err == nil {
					t.Fatal("the client is connected")
				}
				return strings.Contains(err.Error(), own) && strings.Count(err.Error(), file+":[") == 2
			})
		})
	}
}
