// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/disk"
)

// ext4Shutdown is EXT4_IOC_SHUTDOWN (Linux 4.11) and what it takes to stop a file
// system as a power cut does, with nothing of the journal written any more.
const (
	ext4Shutdown      = 0x8004587d
	withoutJournal    = 2
	smallestJournaled = 16 << 20
)

// A move that was committed is there after a power cut that comes next.
func TestCommitsSurviveAPowerCut(t *testing.T) {
	image, dir := disk.Image(t, smallestJournaled), t.TempDir()
	host := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	mounted := false
	mount := func() { host("mount", "-o", "loop,commit=300", image, dir); mounted = true }
	unmount := func() { host("umount", dir); mounted = false }
	t.Cleanup(func() {
		if mounted {
			unmount()
		}
	})
	mount()
	s, _ := open(t, dir, "boot-1")
	p := begin(t, s, pod("web"))
	p, err := s.MovePod(p.ID, state.PodUp, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(int(root.Fd()), ext4Shutdown, withoutJournal)
	root.Close()
	if err != nil {
		t.Fatal(err)
	}
	unmount()
	mount()
	again, log := open(t, dir, "boot-2")
	if got, err := again.Pod(string(p.ID)); err != nil || got.Phase != state.PodReady {
		t.Errorf("after the cut: %+v, %v\n%s", got, err, log)
	}
}
