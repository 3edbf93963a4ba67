// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package compat runs daemon and monitor of this version beside those of the version before, on the same pods: each with
// each, and one taking the other's place.
package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) { os.Exit(nodetest.Main(m)) }

const (
	tb       = "/bin/testbox"
	patience = 20 * time.Second
)

// place is a node whose programs a test replaces, as an installation does.
type place struct {
	*nodetest.Node
	t        *testing.T
	programs string
}

// version is one of the two.
type version string

const (
	present  version = "this"
	previous version = "previous"
)

// newPlace is a place where the daemon and the monitor of a version run.
func newPlace(t *testing.T, v version) *place {
	t.Helper()
	n := nodetest.New(t, nodetest.Preload(t))
	p := &place{Node: n, t: t, programs: filepath.Join(n.Dir, "programs")}
	if err := os.Mkdir(p.programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runc", "cni"} {
		target, err := filepath.Abs(nodetest.Bin(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(p.programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	n.Program = filepath.Join(p.programs, "cri-shim")
	p.install(v, "cri-shim", "cri-monitor")
	p.StartFor(t)
	p.AwaitImage(t, nodetest.TestImage)
	return p
}

// sameMonitor fails the test if the monitor is another process than pid.
func (p *place) sameMonitor(pid int) {
	p.t.Helper()
	if now := p.monitor(); now != pid {
		p.t.Errorf("monitor %d became %d", pid, now)
	}
}

// folder has the built programs of a version.
func (p *place) folder(v version) string {
	p.t.Helper()
	if v == present {
		return nodetest.Bin(p.t, "")
	}
	found, err := filepath.Glob(filepath.Join(nodetest.Root(p.t), ".cache/previous/*/bin"))
	if err != nil || len(found) != 1 {
		p.t.Skipf("needs the programs of the version before: run test/compat/previous (%v, %v)", found, err)
	}
	return found[0]
}

// install puts programs of a version in the place of those that are there, which may run.
func (p *place) install(v version, names ...string) {
	p.t.Helper()
	for _, name := range names {
		path := filepath.Join(p.programs, name)
		// Another process writes it: what this one starts beside that would hold it open, and nobody could execute it.
		if out, err := osexec.Command("cp", filepath.Join(p.folder(v), name), path+".new").CombinedOutput(); err != nil {
			p.t.Fatalf("install %s: %v: %s", name, err, out)
		}
		if err := os.Rename(path+".new", path); err != nil {
			p.t.Fatal(err)
		}
	}
}

// restart replaces the daemon.
func (p *place) restart() {
	p.t.Helper()
	if err := errors.Join(p.Stop(), p.Up(p.t.Context())); err != nil {
		p.t.Fatalf("restart: %v\n%s", err, p.Log())
	}
	p.AwaitRecovered(p.t)
}

// monitor is the pid of the node's monitor.
func (p *place) monitor() (pid int) {
	p.t.Helper()
	nodetest.Eventually(p.t, patience, "a monitor runs", func() bool { // in the middle of an execution it has no name
		pid = p.MonitorPID()
		return pid != 0
	})
	return pid
}

// awaitCurrent waits until the monitor, which stays the process it is, runs the
// program that is in place.
func (p *place) awaitCurrent(monitor int) {
	p.t.Helper()
	nodetest.Eventually(p.t, patience, "the monitor runs the program in place", func() bool {
		running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", monitor))
		if err != nil {
			return false
		}
		there, err := os.Stat(filepath.Join(p.programs, "cri-monitor"))
		return err == nil && os.SameFile(running, there)
	})
}

func (p *place) awaitLogged(text string) {
	p.t.Helper()
	nodetest.Eventually(p.t, patience, "the log says "+text, func() bool { return strings.Contains(p.Log(), text) })
}

// work is what runs in a pod while programs are replaced.
type work struct {
	p             *place
	pod           string
	config        *cri.PodSandboxConfig
	writer, fast  string // write without pause; fast ends with 7
	trap, in, tty string // wait
}

func (p *place) start(name string) *work {
	t := p.t
	t.Helper()
	w := &work{p: p, config: p.PodConfig(name)}
	w.config.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	w.config.Hostname = ""
	w.pod = p.Pod(t, w.config)
	run := func(name string, change func(*cri.ContainerConfig), args ...string) string {
		c := nodetest.ContainerConfig(w.config.Metadata.Name+"-"+name, args...)
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		if change != nil {
			change(c)
		}
		return p.Run(t, w.pod, c, w.config)
	}
	w.writer = run("writer", nil, "lines", "0", "1")
	w.trap = run("trap", nil, "trap")
	w.in = run("in", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "cat")
	w.tty = run("tty", func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true }, "cat")
	w.fast = run("fast", nil, "say", "1500000", "7")
	p.AwaitLog(t, name+"-writer", "line 10\n")
	p.AwaitLog(t, name+"-trap", "trapping")
	return w
}

// whole checks that a log has lines from the first on, none missing and none twice, and returns how many.
func (w *work) whole(name string) int {
	w.p.t.Helper()
	n := 0
	for line := range strings.Lines(w.p.LogOf(w.p.t, w.config.Metadata.Name+"-"+name)) {
		n++
		if want := fmt.Sprintf("line %d\n", n); line != want && !strings.HasPrefix(want, line) { // the last may be cut by a kill
			w.p.t.Fatalf("log of %s: line %d is %q", name, n, line)
		}
	}
	return n
}

// check uses everything as it is now, and goes on.
func (w *work) check(when string) {
	t := w.p.t
	t.Helper()
	for _, id := range []string{w.writer, w.trap, w.in, w.tty} {
		if s := w.p.Status(t, id); s.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: %s is %v", when, s.Metadata.Name, s)
		}
	}
	out, _, code := w.p.Exec(t, w.trap, tb, "say", "2", "9")
	if out != "line 1\nline 2\n" || code != 9 {
		t.Errorf("%s: exec wrote %q and ended with %d", when, out, code)
	}
	before := w.whole("writer")
	nodetest.Eventually(t, patience, when+": the writer goes on", func() bool { return w.whole("writer") > before })
}

// end ends everything, each in its own way, and checks what is known of it.
func (w *work) end() {
	t := w.p.t
	t.Helper()
	if s := w.p.AwaitExit(t, w.fast); s.ExitCode != 7 {
		t.Errorf("fast writer ended: %v", s)
	}
	if n := w.whole("fast"); n != 1500000 {
		t.Errorf("%d lines of the fast writer", n)
	}
	for _, id := range []string{w.trap, w.writer} {
		if _, err := w.p.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
			t.Error(err)
		}
	}
	if s := w.p.Status(t, w.trap); s.ExitCode != 40 {
		t.Errorf("trap ended: %v", s)
	}
	if s := w.p.Status(t, w.writer); s.ExitCode != 2 { // what Go programs say of SIGTERM
		t.Errorf("writer ended: %v", s)
	}
	if w.whole("writer") < 100 {
		t.Error("the writer wrote little")
	}
}

// session is an attached client or a command under way.
type session struct {
	in   *io.PipeWriter
	out  *await.Output
	done chan error
}

func (p *place) session(where string, tty bool) *session {
	p.t.Helper()
	u, err := url.Parse(where)
	if err != nil {
		p.t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		p.t.Fatal(err)
	}
	r, in := io.Pipe()
	s := &session{in: in, out: &await.Output{}, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	go func() {
		s.done <- e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: r, Stdout: s.out, Tty: tty})
	}()
	return s
}

func (p *place) attach(id string, tty bool) *session {
	p.t.Helper()
	r, err := p.Runtime.Attach(p.t.Context(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: tty})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.session(r.Url, tty)
}

func (p *place) exec(id string, args ...string) *session {
	p.t.Helper()
	r, err := p.Runtime.Exec(p.t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: args, Stdin: true, Stdout: true})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.session(r.Url, false)
}

// say writes a line and waits until it comes back.
func (s *session) say(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, patience, line+" comes back", func() bool { return strings.Contains(s.out.String(), line) })
}

// code waits for the end of a command.
func (s *session) code(t *testing.T) int {
	t.Helper()
	select {
	case err := <-s.done:
		if exit := (utilexec.CodeExitError{}); errors.As(err, &exit) {
			return exit.Code
		}
		if err != nil {
			t.Error(err)
		}
		return 0
	case <-time.After(patience):
		t.Fatal("the session does not end")
	}
	return 0
}

// hangUp signals the monitor by a number that was found before it was busy: the
// program that it checks has its name too, and so has what it forks.
func (p *place) hangUp(monitor int) {
	p.t.Helper()
	if err := syscall.Kill(monitor, syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
}
