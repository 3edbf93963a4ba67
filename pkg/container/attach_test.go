// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/await"
)

func TestAttach(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), "while read x; do echo got $x; [ $x != end ] || exit 0; done")
	in.Config.Stdin = true
	id, err := w.Create(t.Context(), in)
	w.must(err)
	if err := w.Attach(t.Context(), id, stdio.Client{Stdout: io.Discard}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("attach to what does not run: %v", err)
	}
	w.must(w.Start(t.Context(), id))
	var first, second await.Output
	input, type1 := io.Pipe()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 2)
	go func() {
		left <- w.Attach(ctx, id, stdio.Client{Stdin: input, Stdout: &first, Resize: make(chan stdio.Size)})
	}()
	go func() { _, _ = io.WriteString(type1, "one\n") }()
	w.node.Eventually("the caller sees output", func() bool { return first.String() == "got one\n" })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller leaves: %v", err)
	}
	go func() {
		left <- w.Attach(t.Context(), id, stdio.Client{Stdin: strings.NewReader("two\nend\n"), Stdout: &second, Stderr: io.Discard})
	}()
	w.must(<-left)
	if second.String() != "got two\ngot end\n" {
		t.Errorf("the second caller sees %q", second.String())
	}
	if c := w.ended(id); c.ExitCode != 0 || c.Reason != "Completed" {
		t.Errorf("%+v", c)
	}
	w.must(type1.Close())
}

// A caller without output waits for the container's end.
func TestAttachInputOnly(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), "read x; exit $x")
	in.Config.Stdin, in.Config.StdinOnce = true, true
	id, err := w.Create(t.Context(), in)
	w.must(err)
	w.must(w.Start(t.Context(), id))
	w.must(w.Attach(t.Context(), id, stdio.Client{Stdin: strings.NewReader("6\n")}))
	if c := w.ended(id); c.ExitCode != 6 {
		t.Errorf("%+v", c)
	}
}

func TestReopenLog(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), "while read x; do echo $x; done")
	in.Config.Stdin = true
	id, err := w.Create(t.Context(), in)
	w.must(err)
	if err := w.ReopenLog(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of what does not run: %v", err)
	}
	w.must(w.Start(t.Context(), id))
	log := w.get(id).LogPath
	w.must(os.Rename(log, log+".1"))
	w.must(w.ReopenLog(t.Context(), id))
	input, words := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- w.Attach(t.Context(), id, stdio.Client{Stdin: input, Stdout: io.Discard}) }()
	go func() { _, _ = io.WriteString(words, "word\n") }()
	w.await(log, 1)
	w.must(w.Stop(t.Context(), id, 0))
	w.must(<-ended)
	w.must(words.Close())
	if old, err := os.ReadFile(log + ".1"); err != nil || len(old) != 0 {
		t.Errorf("the old log: %q, %v", old, err)
	}
	w.d.LoseMonitor()
	if err := w.ReopenLog(t.Context(), w.record(state.Running)); !errdefs.IsUnavailable(err) {
		t.Errorf("without a monitor: %v", err)
	}
}

// A verbose status has the spec if there is room for it.
func TestInfo(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	for room, want := range map[int][]string{1 << 20: {"runtimeSpec", "sandboxID"}, 3000: {"runtimeSpecOmitted", "sandboxID"}, 10: nil} {
		out, err := w.Info(t.Context(), id, room)
		w.must(err)
		var info map[string]any
		if want != nil {
			w.must(json.Unmarshal([]byte(out["info"]), &info))
		}
		for _, key := range want {
			if info[key] == nil {
				t.Errorf("in %d bytes there is no %s: %v", room, key, out)
			}
		}
		if len(out["info"]) > room {
			t.Errorf("%d bytes, there is room for %d", len(out["info"]), room)
		}
	}
	if _, err := w.Info(t.Context(), state.ContainerID(state.NewID()), 1<<20); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
