// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// pause is between two steps, so that recovery is complete and its work goes on beside requests.
const pause = 2 * time.Second

// replace does to a node's daemon and monitor what may happen to them.
func replace(t *testing.T, m *member) {
	t.Helper()
	first := monitor(t, m)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"upgrade", func() error { return errors.Join(m.install(next(t)), m.Stop(), m.Up(t.Context())) }},
		{"restart", func() error { return errors.Join(m.Stop(), m.Up(t.Context())) }},
		{"kill of the daemon", func() error { return errors.Join(m.Kill(), m.Up(t.Context())) }},
		{"reload of the monitor", func() error { return syscall.Kill(first, syscall.SIGHUP) }},
		{"kill of the monitor", func() error { return syscall.Kill(first, syscall.SIGKILL) }},
		{"kill of both", func() error {
			return errors.Join(m.Kill(), syscall.Kill(monitor(t, m), syscall.SIGKILL), m.Up(t.Context()))
		}},
		{"downgrade", func() error { return errors.Join(m.install(m.Bin), m.Stop(), m.Up(t.Context())) }},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s on %s: %v", step.what, m.name, err)
		}
		time.Sleep(pause)
		if err := m.AwaitReady(t.Context()); err != nil {
			t.Fatalf("after the %s on %s: %v", step.what, m.name, err)
		}
		if now := monitor(t, m); step.what == "upgrade" && now != first {
			t.Errorf("the upgrade put monitor %d in the place of %d", now, first)
		}
	}
	if n := strings.Count(m.Log(), "monitor replaced in place"); n < 2 {
		t.Errorf("the monitor was replaced %d times, want one by the upgrade and one by the downgrade", n)
	}
}

// next has daemon and monitor of another build.
func next(t *testing.T) string { return filepath.Join(nodetest.Root(t), ".cache", "next") }

func monitor(t *testing.T, m *member) (pid int) {
	t.Helper()
	nodetest.Eventually(t, 20*time.Second, "a monitor runs", func() bool { // in the middle of an execution it has no name
		pid = m.MonitorPID()
		return pid != 0
	})
	return pid
}

// load asks 200 times a second, and never waits for an answer before it asks again.
type load struct {
	stop chan struct{}
	done sync.WaitGroup

	mu           sync.Mutex // guards what follows
	sent, failed int
	slowest      time.Duration
	first        error
}

func newLoad(ask func() error) *load {
	l := &load{stop: make(chan struct{})}
	l.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				l.done.Go(func() { l.one(ask) })
			}
		}
	})
	return l
}

func (l *load) one(ask func() error) {
	begin := time.Now()
	err := ask()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.slowest = max(l.slowest, time.Since(begin))
	if err != nil {
		l.failed++
		if l.first == nil {
			l.first = fmt.Errorf("after %s: %w", time.Since(begin), err)
		}
	}
}

// end fails the test if a request failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.done.Wait()
	fmt.Printf("cluster: %d requests, %d failed, the slowest took %s\n", l.sent, l.failed, l.slowest.Round(time.Millisecond))
	if l.failed > 0 || l.sent < 1000 {
		t.Errorf("%d of %d requests failed, the first with: %v", l.failed, l.sent, l.first)
	}
}
