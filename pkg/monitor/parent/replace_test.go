// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func hangUp(t *testing.T, n *monitornode.Node) {
	t.Helper()
	if err := unix.Kill(n.PID, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// busy are containers, a terminal and a command at work, and what must have become
// of them in the end.
type busy struct {
	t             *testing.T
	n             *monitornode.Node
	stop, gate    string
	reader, tty   *monitor.Attachment
	session, past *monitor.Process
}

func beBusy(t *testing.T, n *monitornode.Node) *busy {
	t.Helper()
	b := &busy{t: t, n: n, stop: filepath.Join(n.Dir, "stop"), gate: filepath.Join(n.Dir, "gate")}
	n.Launch(n.Spec("writer", monitornode.Self(t), monitornode.AsCounter, b.stop))
	in := n.Spec("reader", "sh", "-c", "read x; read y; echo $x $y; exit 4")
	in.Stdin = true
	n.Launch(in)
	n.Launch(n.Terminal("tty", "sh", "-c", "stty -echo; echo ready; read x; echo got $x; exit 5"))
	n.WaitLog("tty", "ready")
	b.reader, b.tty = n.Attach("reader"), n.Attach("tty")
	fmt.Fprintln(b.reader.Stdin, "one")
	var err error
	wait := "until [ -e " + b.gate + "%s ]; do sleep 0.01; done; exit 6"
	if b.session, err = n.Client.Exec(n.Ctx(), monitor.Exec{Argv: []string{"/bin/sh", "-c", fmt.Sprintf(wait, "")}}); err != nil {
		t.Fatal(err)
	}
	if b.past, err = n.Client.Exec(n.Ctx(), monitor.Exec{Argv: []string{"/bin/sh", "-c", fmt.Sprintf(wait, "2")}}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *busy) open(gate string) {
	b.t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// check ends them.
func (b *busy) check() {
	t, n := b.t, b.n
	t.Helper()
	if pid := n.MonitorPID(); pid != n.PID {
		t.Errorf("pid %d became %d", n.PID, pid)
	}
	b.open(b.gate)
	fmt.Fprintln(b.reader.Stdin, "two")
	fmt.Fprintln(b.tty.Stdin, "three")
	if got := monitornode.ReadAll(t, b.reader.Stdout); got != "one two\n" {
		t.Errorf("read %q", got)
	}
	if got, _ := io.ReadAll(b.tty.Stdout); string(got) != "got three\r\n" {
		t.Errorf("read %q from the terminal", got)
	}
	if e, err := b.session.Wait(n.Ctx()); err != nil || e.Code != 6 {
		t.Errorf("exec ended %+v, %v", e, err)
	}
	if e, err := b.past.Wait(n.Ctx()); err != nil || e.Code != 6 {
		t.Errorf("exec that ended meanwhile: %+v, %v", e, err)
	}
	lines := monitornode.EndCounter(t, b.stop)
	want := map[string]int{"writer": 7, "reader": 4, "tty": 5}
	for range want {
		if e := n.Exit(); e.Code != want[e.ID] || e.Unknown {
			t.Errorf("exit %+v, want code %d", e, want[e.ID])
		}
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("writer")), lines)
}

func awaitVersion(t *testing.T, n *monitornode.Node, version string) {
	t.Helper()
	monitornode.Eventually(t, "version "+version, func() bool {
		h := n.Hello(t)
		return h.Build != nil && h.Build.Version == version
	})
}

// TestHangUpReplacesTheBinary: SIGHUP executes what is at the path that the monitor
// was started by, also through a link, and however often it comes.
func TestHangUpReplacesTheBinary(t *testing.T) {
	versions := []string{monitornode.BuildVersion(t, "v1"), monitornode.BuildVersion(t, "v2")}
	link := filepath.Join(t.TempDir(), "cri-monitor")
	if err := os.Symlink(versions[0], link); err != nil {
		t.Fatal(err)
	}
	n := monitornode.StartWith(t, link)
	b := beBusy(t, n)
	awaitVersion(t, n, "v1")
	before := n.Hello(t)
	if before.Executable != link || before.Build.ID == "" {
		t.Errorf("hello %+v, build %+v", before, before.Build)
	}
	if err := os.Symlink(versions[1], link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	hangUp(t, n)
	b.open(b.gate + "2") // ends while the monitor is at it
	awaitVersion(t, n, "v2")
	after := n.Hello(t)
	if after.Instance != before.Instance || after.ExitLog != before.ExitLog || after.Build.ID == before.Build.ID {
		t.Errorf("%+v became %+v", before, after)
	}
	install(t, versions[1], read(t, versions[0])) // the running file is deleted now
	hangUp(t, n)
	awaitVersion(t, n, "v1")
	for range 200 { // some of them in the moment in which nobody catches signals
		hangUp(t, n)
		time.Sleep(500 * time.Microsecond)
		n.Hello(t) // who connects meanwhile is served by the one or the other
	}
	awaitVersion(t, n, "v1")
	b.check()
}

// TestBrokenBinaryIsNotExecuted: what can't be the next monitor leaves this one as
// it is, with one line that says why.
func TestBrokenBinaryIsNotExecuted(t *testing.T) {
	n := monitornode.StartWith(t, monitornode.BuildMonitor(t))
	b := beBusy(t, n)
	b.open(b.gate + "2")
	foreign := []byte(read(t, n.Binary))
	binary.NativeEndian.PutUint16(foreign[18:], 2) // e_machine: SPARC
	for i, tt := range []struct{ name, program, why string }{
		{"missing", "", "no such file or directory"},
		{"not executable", "-", "permission denied"},
		{"of another machine", string(foreign), "exec format error"},
		{"no program", "nonsense", "exec format error"},
		{"ends with an error", "#!/bin/sh\necho broken >&2; exit 3\n", "exit status 3: broken"},
		{"killed", "#!/bin/sh\nkill -9 $$\n", "exit status 137"},
		{"another program", "#!/bin/sh\necho hello\n", "it said"},
		{"silent", "#!/bin/sh\n", "it said"},
		{"older than --check", "#!/bin/sh\necho 'flag provided but not defined: -check' >&2; exit 2\n", "flag provided but not defined"},
		{"cut off", string(foreign[:1000]), ""},
	} {
		if tt.program == "" {
			if err := os.Remove(n.Binary); err != nil {
				t.Fatal(err)
			}
		} else {
			install(t, n.Binary, tt.program)
		}
		if tt.name == "not executable" {
			if err := os.Chmod(n.Binary, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		hangUp(t, n)
		monitornode.Eventually(t, tt.name+" to be refused", func() bool {
			return strings.Count(n.MonitorLog(), "monitor not replaced, it goes on") == i+1
		})
		lines := strings.Split(strings.TrimSpace(n.MonitorLog()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, "ERROR") || !strings.Contains(last, tt.why) || !strings.Contains(last, n.Binary) {
			t.Errorf("%s: logged %s", tt.name, last)
		}
	}
	if got := strings.Count(n.MonitorLog(), "executes the new binary"); got != 0 {
		t.Errorf("%d binaries were executed", got)
	}
	b.check()
}

// TestImageThatDiesIsSucceeded: a program that answers the check and dies once it is
// the monitor loses the parent of what runs, and nothing else: the next monitor, which
// is started from a program that works, takes all of it over.
func TestImageThatDiesIsSucceeded(t *testing.T) {
	good := monitornode.BuildMonitor(t)
	n := monitornode.StartWith(t, good)
	program := read(t, good)
	stop := filepath.Join(n.Dir, "stop")
	n.Launch(n.Spec("writer", monitornode.Self(t), monitornode.AsCounter, stop))
	n.Launch(n.Terminal("tty", "sh", "-c", "stty -echo; echo ready; read x; echo got $x; exit 5"))
	n.WaitLog("tty", "ready")
	install(t, good, "#!/bin/sh\n[ $1 = --check ] && echo {} || exit 1\n")
	dies := n.PID
	hangUp(t, n)
	monitornode.Eventually(t, "the image to die", func() bool { return unix.Kill(dies, 0) != nil || n.MonitorPID() == 0 })
	install(t, good, program)
	monitornode.Eventually(t, "a successor", func() bool { pid := n.MonitorPID(); return pid != 0 && pid != dies && n.Client.Ready() == nil })
	n.PID = n.MonitorPID()
	a := n.Attach("tty")
	fmt.Fprintln(a.Stdin, "three")
	if got, _ := io.ReadAll(a.Stdout); string(got) != "got three\r\n" {
		t.Errorf("read %q from the terminal", got)
	}
	lines := monitornode.EndCounter(t, stop)
	known := monitornode.ExitKnownAfterReap(t)
	for range 2 {
		if e := n.Exit(); e.Code != map[string]int{"writer": 7, "tty": 5}[e.ID] && (known || !e.Unknown) {
			t.Errorf("exit %+v", e)
		}
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("writer")), lines)
}

// TestHungBinaryIsGivenUp: one that does not answer the check is killed.
func TestHungBinaryIsGivenUp(t *testing.T) {
	n := monitornode.StartWith(t, monitornode.BuildMonitor(t))
	install(t, n.Binary, "#!/bin/sh\necho $$ >"+n.Dir+"/hung; exec sleep 1000\n")
	hangUp(t, n)
	worksAfter(t, n, "meanwhile")
	monitornode.Eventually(t, "the binary to be given up", func() bool { return strings.Contains(n.MonitorLog(), "no answer for") })
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, n.Dir+"/hung")))
	if err != nil {
		t.Fatal(err)
	}
	monitornode.Eventually(t, "it to be killed", func() bool { return unix.Kill(pid, 0) != nil })
	worksAfter(t, n, "afterwards")
}

// TestClientReplacesAnotherBuild: a client that comes with another build has the
// monitor execute it, once.
func TestClientReplacesAnotherBuild(t *testing.T) {
	v1, v2 := monitornode.BuildVersion(t, "v1"), monitornode.BuildVersion(t, "v2")
	n := monitornode.StartWith(t, v1)
	n.Replace = v1
	reconnect := func() {
		n.Stop()
		n.Connect()
	}
	reconnect()
	awaitVersion(t, n, "v1")
	n.Launch(n.Spec("c", "sh", "-c", "sleep 0.5; exit 3"))
	first := n.Hello(t)
	install(t, v1, read(t, v2))
	reconnect()
	awaitVersion(t, n, "v2")
	if h := n.Hello(t); h.Instance != first.Instance || n.MonitorPID() != n.PID {
		t.Errorf("%+v became %+v", first, h)
	}
	reconnect()
	if e := n.Exit(); e.ID != "c" || e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	if got := strings.Count(n.ClientLog(), "monitor replaced in place"); got != 1 || !strings.Contains(n.ClientLog(), "from=v1 to=v2") {
		t.Errorf("replaced %d times: %s", got, n.ClientLog())
	}
	if strings.Contains(n.ClientLog(), "not replaced") {
		t.Error(n.ClientLog())
	}
}

// TestClientLetsOthersAlone: a monitor that would execute something else, and a
// binary that can't be asked, are one line for each monitor.
func TestClientLetsOthersAlone(t *testing.T) {
	v1, v2 := monitornode.BuildVersion(t, "v1"), monitornode.BuildVersion(t, "v2")
	n := monitornode.StartWith(t, v1)
	for i, tt := range []struct{ binary, why string }{
		{v2, "which is not"}, {n.Dir + "/none", "no such file"}, {"/bin/false", "exit status 1"}, {"/bin/true", "unexpected end of JSON"},
	} {
		n.Stop()
		n.Replace = tt.binary
		n.Connect()
		monitornode.Eventually(t, "the line", func() bool { return strings.Count(n.ClientLog(), "monitor not replaced, it goes on") == i+1 })
		if !strings.Contains(n.ClientLog(), tt.why) {
			t.Errorf("%s: %s", tt.binary, n.ClientLog())
		}
	}
	worksAfter(t, n, "afterwards")
	if bytes.Contains([]byte(n.MonitorLog()), []byte("executes the new binary")) {
		t.Error("a binary was executed")
	}
	awaitVersion(t, n, "v1")
}
