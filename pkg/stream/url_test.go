// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/cri-shim/cri-shim/pkg/stream"
)

func TestURLs(t *testing.T) {
	s, _ := start(t, stream.Options{Exec: (&processes{}).exec})
	x := stream.Session{Container: "c", Command: []string{"true"}, Stdout: true}
	u, err := s.GetExec(x)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, clients[0].dial, u, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, method, url string
		status            int
	}{
		{"used up", "POST", u, http.StatusNotFound},
		{"guessed", "GET", "http://" + s.Addr().String() + "/exec/AAAAAAAA", http.StatusNotFound},
		{"root", "GET", "http://" + s.Addr().String() + "/", http.StatusNotFound},
		{"method", "DELETE", u, http.StatusMethodNotAllowed},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != tt.status {
			t.Errorf("%s: %s, want %d", tt.name, r.Status, tt.status)
		}
	}
	seen := map[string]bool{}
	for range stream.TicketLimit {
		u, err := s.GetExec(x)
		if err != nil {
			t.Fatal(err)
		}
		if seen[u] || len(u) < 50 {
			t.Fatalf("URL %s", u)
		}
		seen[u] = true
	}
	if _, err := s.GetExec(x); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one too many: %v", err)
	}
}

func TestNewTellsWhatIsWrong(t *testing.T) {
	for _, o := range []stream.Options{{Address: "256.0.0.1"}, {CertFile: "/nonexistent", KeyFile: "/nonexistent"}, {CertFile: "/dev/null"}} {
		o.Log = slog.New(slog.DiscardHandler)
		if _, err := stream.New(t.Context(), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
