// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"io"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/cri-shim/cri-shim/pkg/stream"
)

// TestIdleSessionEnds: a session on which nothing moves ends after IdleTimeout,
// and its command with it; one that talks goes on.
func TestIdleSessionEnds(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			p := &processes{ended: make(chan error, 2)}
			s, _ := start(t, stream.Options{Exec: p.exec, IdleTimeout: time.Second})
			session := func(command ...string) {
				u, err := s.GetExec(stream.Session{Container: "c", Command: command, Stdout: true})
				if err != nil {
					t.Error(err)
					return
				}
				run(t, c.dial, u, remotecommand.StreamOptions{Stdout: io.Discard})
			}
			session("sh", "-c", "for i in 1 2 3 4 5 6; do echo; sleep 0.4; done")
			if cause := <-p.ended; cause != nil {
				t.Errorf("a session that talks ended: %v", cause)
			}
			session("sleep", "15")
			if cause := <-p.ended; cause == nil {
				t.Error("a session on which nothing moves went on")
			}
		})
	}
}
