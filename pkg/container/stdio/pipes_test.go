// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// slow is a caller that reads nothing before ready.
type slow struct {
	ready chan struct{}
	got   bytes.Buffer
}

func (s *slow) Write(b []byte) (int, error) {
	<-s.ready
	return s.got.Write(b)
}

// command opens streams for to and returns the end that a command writes to.
func command(t *testing.T, to Client) (*Pipes, *os.File) {
	t.Helper()
	s, err := Open(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	stdout := s.Child[1]
	s.Child[1] = nil // ours to close, as a process's end does
	s.Started()
	return s, stdout
}

func TestSlowCallerGetsAll(t *testing.T) {
	caller := &slow{ready: make(chan struct{})}
	s, stdout := command(t, Client{Stdout: caller})
	want := strings.Repeat("0123456789abcdef", 5<<10) // 80 KiB: in the pipe, and in the copy's hands
	if _, err := stdout.WriteString(want); err != nil {
		t.Fatal(err)
	}
	defer stdout.Close() // somebody else holds the pipe, and says nothing
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context(), 10*time.Millisecond) }()
	select {
	case err := <-drained:
		t.Fatalf("drained before the caller read: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(caller.ready)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if got := caller.got.String(); got != want {
		t.Errorf("%d of %d bytes arrived", len(got), len(want))
	}
}

func TestOutputThatGoesOnIsCutAloud(t *testing.T) {
	caller := &Capture{Limit: 1 << 30}
	s, stdout := command(t, Client{Stdout: caller})
	ended := make(chan struct{})
	go func() { // what a command left running
		defer close(ended)
		for chunk := bytes.Repeat([]byte("x"), 1<<16); ; {
			if _, err := stdout.Write(chunk); err != nil {
				return
			}
		}
	}()
	err := s.Drain(t.Context(), 10*time.Millisecond)
	if !errdefs.IsDataLoss(err) {
		t.Errorf("%v, want the caller told", err)
	}
	s.Close()
	<-ended
	stdout.Close()
}

func TestPausedCallerHoldsUpNoStop(t *testing.T) {
	caller := &slow{ready: make(chan struct{})}
	defer close(caller.ready)
	s, stdout := command(t, Client{Stdout: caller})
	if _, err := stdout.WriteString("words"); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errdefs.ErrUnavailable)
	if err := s.Drain(ctx, time.Hour); !errdefs.IsUnavailable(err) {
		t.Errorf("%v, want why it ended", err)
	}
}
