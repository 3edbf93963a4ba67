// SPDX-License-Identifier: Apache-2.0

//go:build integration

package compat

import (
	"strings"
	"testing"
)

// TestReloadUnderLoad replaces the monitor in place, again and again, under containers that write, attached clients, a
// terminal, and commands that are under way or end meanwhile.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	p := newPlace(t, present)
	pid := p.monitor()
	w := p.start("load")
	in, tty, cmd := p.attach(w.in, false), p.attach(w.tty, true), p.exec(w.trap, tb, "cat")
	ending := p.exec(w.trap, tb, "sleep", "1", "9")
	for _, s := range []*session{in, tty, cmd} {
		s.say(t, "hello")
	}
	const times = 5
	for i := range times {
		p.install(present, "cri-monitor") // another file, of the same build
		p.hangUp(pid)
		p.awaitCurrent(pid)
		for _, s := range []*session{in, tty, cmd} {
			s.say(t, "again"+strings.Repeat("!", i))
		}
		w.check("after a reload")
	}
	p.sameMonitor(pid)
	if code := ending.code(t); code != 9 {
		t.Errorf("the command that ended meanwhile ended with %d", code)
	}
	cmd.in.Close()
	if code := cmd.code(t); code != 0 || !strings.HasSuffix(cmd.out.String(), "EOF\n") {
		t.Errorf("command ended with %d: %q", code, cmd.out.String())
	}
	in.in.Close() // its one client: the container reads the end
	if s := p.AwaitExit(t, w.in); s.ExitCode != 0 {
		t.Errorf("reader ended: %v", s)
	}
	w.end()
}

// TestUpgrade puts this version in the place of the one before: the daemon restarts, the monitor stays the same process.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	p := newPlace(t, previous)
	w := p.start("up")
	pid := p.monitor()
	p.install(present, "cri-shim", "cri-monitor")
	p.restart()
	p.awaitLogged("monitor replaced in place")
	p.awaitCurrent(pid)
	p.sameMonitor(pid)
	w.check("after the upgrade")
	p.start("more").end()
	w.end()
}

// TestNewDaemonOldMonitor: a monitor of the version before serves this version's daemon.
func TestNewDaemonOldMonitor(t *testing.T) {
	t.Parallel()
	p := newPlace(t, previous)
	w := p.start("old")
	p.install(present, "cri-shim")
	p.restart()
	w.check("with the new daemon")
	p.start("new").end()
	p.restart()
	w.check("with the new daemon, restarted")
	w.end()
	if strings.Contains(p.Log(), "monitor replaced in place") {
		t.Error("the monitor was replaced, by the version that it is")
	}
}

// TestOldDaemonNewMonitor: the daemon goes back to the version before, and forward again, with the monitor of this one.
func TestOldDaemonNewMonitor(t *testing.T) {
	t.Parallel()
	p := newPlace(t, present)
	w := p.start("new")
	p.install(previous, "cri-shim")
	p.restart()
	w.check("with the old daemon")
	back := p.start("old")
	p.install(present, "cri-shim")
	p.restart()
	w.check("with the new daemon again")
	back.check("with the new daemon")
	back.end()
	w.end()
}
