// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestShortageOfDescriptors: a monitor that has none left goes on with those it
// has, and with clients that wait once there are more.
func TestShortageOfDescriptors(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Spec("c", "sleep", "1000"))
	var whole unix.Rlimit
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, nil, &whole); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(n.Descriptors() + 4), Max: whole.Max}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		n.Raw(t)
	}
	monitornode.Eventually(t, "the shortage", func() bool { return strings.Contains(n.MonitorLog(), "connection not accepted") })
	if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 1 {
		t.Errorf("list %v, %v", got, err)
	}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &whole, nil); err != nil {
		t.Fatal(err)
	}
	if h := n.Hello(t); h.PID != n.PID {
		t.Errorf("monitor %d became %d", n.PID, h.PID)
	}
	if said := strings.Count(n.MonitorLog(), "connection not accepted"); said != 1 {
		t.Errorf("it is logged %d times", said)
	}
}

// TestFullStateDirectory: an upgrade on a full tmpfs keeps what runs, and so does
// a monitor that takes over there.
func TestFullStateDirectory(t *testing.T) {
	n := monitornode.StartOn(t, func(n *monitornode.Node) {
		dir := filepath.Join(n.Dir, "m")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("cri-test", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Skip("mount tmpfs:", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	})
	in := n.Spec("c", "sh", "-c", "while read x; do echo $x; [ $x = end ] && exit 4; done")
	in.Stdin = true
	n.Launch(in)
	a := n.Attach("c")
	filler := filepath.Join(n.Dir, "m", "filler")
	if err := os.WriteFile(filler, bytes.Repeat([]byte("x"), 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("fill the state directory:", err)
	}
	if err := n.Client.Upgrade(n.Ctx()); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(a.Stdin, "upgraded")
	n.WaitLog("c", "upgraded")
	n.KillMonitor()
	n.Ready()
	a = n.Attach("c")
	fmt.Fprintln(a.Stdin, "end")
	if e := n.Next(); e.ID != "c" || e.Code != 4 && !e.Unknown {
		t.Errorf("exit %+v", e)
	}
	n.WaitLog("c", "end")
}

// TestAttachedDuringShortage: a client that cannot be waited for is told, and the
// container is not held up.
func TestAttachedDuringShortage(t *testing.T) {
	n := monitornode.Start(t)
	in := n.Spec("c", "sh", "-c", "read x; head -c 1000000 /dev/zero | tr '\\0' '\\n'; echo written; sleep 1000")
	in.Stdin = true
	n.Launch(in)
	a := n.Attach("c")
	var whole unix.Rlimit
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, nil, &whole); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4, Max: whole.Max}, nil); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(a.Stdin, "go")
	n.WaitLog("c", "written")
	told := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, a.Stdout); told <- err }()
	select {
	case err := <-told:
		if !errdefs.IsResourceExhausted(err) {
			t.Errorf("output ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the output ended and its reader was not told why")
	}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &whole, nil); err != nil {
		t.Fatal(err)
	}
}
