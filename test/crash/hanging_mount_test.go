// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hungFilesystem mounts a file system that answers nothing, and from die on every request with an error:
// FUSE, whose server is this process and never reads a request.
func hungFilesystem(t *testing.T) (dir string, die func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no file system that can be made to hang: /dev/fuse: %v", err)
	}
	dir = filepath.Join(t.TempDir(), "cri-hung")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cri-hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		unix.Close(fd)
		t.Skipf("no file system that can be made to hang: mount: %v", err)
	}
	var once sync.Once
	die = func() { once.Do(func() { unix.Close(fd) }) }
	t.Cleanup(func() {
		die()
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	return dir, die
}

// TestHungMountSource mounts a directory of a file system that hangs.
func TestHungMountSource(t *testing.T) {
	d := start(t)
	warm(t, d)
	clean := d.Look(t)
	dir, die := hungFilesystem(t)
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
