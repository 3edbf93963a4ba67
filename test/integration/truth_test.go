// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"io"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pausing is a client that looks away for a while before it reads.
type pausing struct {
	pause time.Duration
	bytes int
}

func (p *pausing) Write(b []byte) (int, error) {
	time.Sleep(p.pause)
	p.pause = 0
	p.bytes += len(b)
	return len(b), nil
}

// TestSlowClientGetsAll: what a command wrote arrives however late its client
// reads, also after the time for which left processes are waited for.
func TestSlowClientGetsAll(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "slow")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	const size = 8 << 20 // more than all buffers on the way hold
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "bytes", "8388608"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			out := &pausing{pause: 4 * time.Second}
			if err := session(t, c.execute, r.Url, remotecommand.StreamOptions{Stdout: out}); err != nil {
				t.Error(err)
			}
			if out.bytes != size {
				t.Errorf("%d bytes arrived of %d", out.bytes, size)
			}
		})
	}
}

// TestDroppedClientIsTold: a client that reads too slowly for a flood hears
// that it lost something.
func TestDroppedClientIsTold(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "dropped")
	id := d.Run(t, pod, inHostNet("app", "lines", "100000000"), p)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			err := session(t, c.execute, attach(t, d, id, false, false), remotecommand.StreamOptions{
				Stdout: &pausing{pause: 5 * time.Second}, Stderr: io.Discard,
			})
			if err == nil || !strings.Contains(err.Error(), "did not read") {
				t.Errorf("client is told %v", err)
			}
		})
	}
}

// TestStopEndsSessionsAloud: no client takes the daemon's end for its command's.
func TestStopEndsSessionsAloud(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "stop")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	told := make(chan error, 2*len(clients))
	for _, c := range clients {
		x, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "sleep"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		a := attach(t, d, id, false, false)
		go func() {
			told <- session(t, c.execute, x.Url, remotecommand.StreamOptions{Stdout: io.Discard})
		}()
		go func() {
			told <- session(t, c.execute, a, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
		}()
	}
	time.Sleep(time.Second) // there is no event for "the client has its session"
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	for range cap(told) {
		if err := <-told; err == nil || !strings.Contains(err.Error(), "stopping") && !strings.Contains(err.Error(), "connection lost") {
			t.Errorf("client is told %v", err)
		}
	}
	if err := d.Up(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestExecTerminalHasTerm: programs that draw find a terminal they know, also in
// a container that has none.
func TestExecTerminalHasTerm(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "term")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "env"}, Tty: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := session(t, clients[0].execute, r.Url, remotecommand.StreamOptions{Stdout: &out, Tty: true}); err != nil {
		t.Fatal(err)
	}
	contains(t, "environment", out.String(), "TERM=xterm")
}
