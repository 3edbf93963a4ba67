// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/disk"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// deepLevels is more than the daemon has descriptors in TestHostileTrees, and a path of 16 times PATH_MAX.
const deepLevels = 30_000

// What a container makes of directories neither blinds the node nor outlives the container: deeper than descriptors,
// longer than paths, in its layer and in a volume that its image declares.
func TestHostileTrees(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	writeLayout(t, preload, testImage, testboxImage(t))
	img := nodetest.TestboxImage(t)
	img.Config.Volumes = map[string]struct{}{"/volume": {}}
	writeLayout(t, preload, volumesImage, img)
	d := startPreloaded(t, preload, volumesImage)
	few := &unix.Rlimit{Cur: 512, Max: 512}
	if err := unix.Prlimit(d.PID(), unix.RLIMIT_NOFILE, few, nil); err != nil {
		t.Fatal(err)
	}
	pod, config := quickPod(t, d, "trees")
	c := inHostNet("deep", "sleep")
	c.Image.Image = volumesImage
	deep, good := d.Run(t, pod, anyPath(c), config), d.Run(t, pod, inHostNet("good", "sleep"), config)
	for _, at := range []string{"/deep", "/volume/deep"} {
		contains(t, "deepen "+at, exec(t, d, deep, "deepen", at, fmt.Sprint(deepLevels), "1"), "deep")
	}
	contains(t, "deepen /long", exec(t, d, deep, "deepen", "/long", "30", "200"), "deep")
	exec(t, d, good, "write", "/file", "x")

	nodetest.Eventually(t, 2*patience, "the deep trees are counted", func() bool {
		return writtenInodes(t, d) > 2*deepLevels
	})
	layer := layerInodes(t, d)
	if layer[deep] < deepLevels || layer[deep] > deepLevels+deepLevels/2 || layer[good] < 2 || layer[good] > 10 {
		t.Errorf("inodes of writable layers %v, deep is %s", layer, deep)
	}
	remove(t, d, deep)
	removePod(t, d, pod)
	d.NothingLeft(t)
	for line := range strings.Lines(d.Log()) {
		if len(line) > 32<<10 {
			t.Errorf("a log line of %d bytes: %.500s", len(line), line)
		}
	}
}

// anyPath lets a container make paths of any length. AppArmor refuses more than 8,192 bytes.
func anyPath(c *cri.ContainerConfig) *cri.ContainerConfig {
	appArmor(cri.SecurityProfile_Unconfined, "")(c.Linux.SecurityContext)
	return c
}

// A directory whose filesystem never answers, in a container's layer, holds up neither other figures nor the removal of
// the container for ever: it is refused with the cause, and works once nothing is mounted there.
func TestHangingMountInALayer(t *testing.T) {
	d := node(t)
	pod, config := quickPod(t, d, "hangs")
	dead, good := d.Run(t, pod, inHostNet("dead", "sleep"), config), d.Run(t, pod, inHostNet("good", "sleep"), config)
	exec(t, d, dead, "mkdir", "/remote")
	exec(t, d, dead, "write", "/file", "x")
	exec(t, d, good, "write", "/file", "x")
	_, unmount := disk.Dead(t, filepath.Join(d.Layout().Images(), "rootfs", dead, "upper/remote"))
	nodetest.Eventually(t, 3*patience, "both are counted", func() bool {
		layer := layerInodes(t, d)
		return layer[dead] >= 2 && layer[good] >= 2
	})
	_, err := d.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: dead})
	if err == nil || !strings.Contains(err.Error(), "mount point") || status.Code(err) == codes.DeadlineExceeded {
		t.Errorf("removed with something mounted in it: %v", err)
	}
	unmount()
	remove(t, d, dead)
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// writtenInodes is what ImageFsInfo says that containers have written.
func writtenInodes(t *testing.T, d *nodetest.Node) uint64 {
	t.Helper()
	r, err := d.Images.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil || len(r.ContainerFilesystems) != 1 {
		t.Fatalf("ImageFsInfo: %v, %v", r, err)
	}
	return r.ContainerFilesystems[0].InodesUsed.GetValue()
}

// layerInodes is what ListContainerStats says of each container's writable layer.
func layerInodes(t *testing.T, d *nodetest.Node) map[string]uint64 {
	t.Helper()
	r, err := d.Runtime.ListContainerStats(t.Context(), &cri.ListContainerStatsRequest{})
	if err != nil {
		t.Fatalf("ListContainerStats: %v", err)
	}
	out := map[string]uint64{}
	for _, s := range r.Stats {
		out[s.Attributes.Id] = s.WritableLayer.GetInodesUsed().GetValue()
	}
	return out
}
