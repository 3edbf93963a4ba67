// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/disk"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// TestHungMountSource mounts a directory of a file system that hangs.
func TestHungMountSource(t *testing.T) {
	d := start(t)
	warm(t, d)
	clean := d.Look(t)
	dir := t.TempDir()
	die, _ := disk.Dead(t, dir)
	w := newSubject(t, d)
	w.container.Mounts = []*cri.Mount{{HostPath: filepath.Join(dir, "volume"), ContainerPath: "/volume"}}
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	begun := func(ctx context.Context) error {
		r, err := d.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: w.pod, Config: w.container, SandboxConfig: w.config})
		if err != nil {
			return err
		}
		_, err = d.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId})
		return err
	}
	impatient(t, begun)
	answers(t, d)
	impatient(t, begun)
	nodetest.Eventually(t, 5*time.Second, "the log names the stage and how long it lasts", func() bool {
		return strings.Contains(d.Log(), "still at")
	})
	restart(t, d)
	answers(t, d)
	die()
	if err := begun(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a container with a volume on a file system that died: %v", err)
	}
	w.container.Mounts = nil
	w.container.Metadata.Attempt++
	if err := errors.Join(w.create(), w.start()); err != nil {
		t.Error(err)
	}
	w.clear(clean)
}
