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
