// SPDX-License-Identifier: Apache-2.0

package crilog_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// recording is a pipe, a recorder that drains it, and what was written.
type recording struct {
	t     *testing.T
	r     *crilog.Recorder
	w     int
	log   string
	wrote bytes.Buffer
}

func newRecording(t *testing.T) *recording {
	t.Helper()
	return newRecordingIn(t, t.TempDir())
}

// newRecordingIn has the journal in dir.
func newRecordingIn(t *testing.T, dir string) *recording {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pipe[0]); unix.Close(pipe[1]) })
	rec := &recording{t: t, w: pipe[1], log: filepath.Join(t.TempDir(), "log")}
	var err error
	if rec.r, err = crilog.NewRecorder(dir, rec.log, pipe[0]); err == nil {
		err = rec.r.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rec.r.Close() })
	return rec
}

func (rec *recording) write(s string) {
	rec.t.Helper()
	if _, err := unix.Write(rec.w, []byte(s)); err != nil {
		rec.t.Fatal(err)
	}
	rec.wrote.WriteString(s)
}

func (rec *recording) check() {
	rec.t.Helper()
	if got := monitornode.Text(monitornode.ReadLog(rec.t, rec.log), "stdout"); got != rec.wrote.String() {
		rec.t.Errorf("log holds %d bytes, %d were written; %.200q, %.200q", len(got), rec.wrote.Len(), got, rec.wrote.String())
	}
}

func (rec *recording) successor() {
	rec.t.Helper()
	var err error
	if rec.r, err = rec.r.Successor(); err != nil {
		rec.t.Fatal(err)
	}
}

// TestCrashAtEveryStep kills at each instant of a batch, with and without an
// unfinished line before it and after it, and with each length of torn write.
func TestCrashAtEveryStep(t *testing.T) {
	befores := []string{"", "whole\n", "unfinished "}
	batches := []string{"x", "\n", "some text\n", "one\ntwo\nthr", strings.Repeat("y", 20000) + "\nz", strings.Repeat("long line\n", 5000)}
	steps := []crilog.Step{
		crilog.BeforeRead, crilog.AfterRead, crilog.AfterReadNoted, crilog.HalfWritten, crilog.Written, crilog.TailKept,
	}
	for _, before := range befores {
		for i, data := range batches {
			for _, step := range steps {
				for _, cut := range []int{0, 1, 45, 60, 100000} {
					if step != crilog.HalfWritten && cut > 0 {
						continue
					}
					t.Run(fmt.Sprintf("%q/batch%d/step%d/cut%d", before, i, step, cut), func(t *testing.T) {
						rec := newRecording(t)
						rec.write(before)
						rec.r.Drain()
						rec.write(data)
						rec.r.Crash(step, len(data), cut, false)
						rec.successor()
						rec.write("and\non")
						rec.r.Drain()
						rec.r.Crash(step, 0, cut, true)
						rec.successor()
						if step <= crilog.AfterRead { // nothing was read, so nothing is known to have begun
							rec.r.Flush()
						}
						rec.check()
					})
				}
			}
		}
	}
}

// TestCrashAtRandom strings many crashes together.
func TestCrashAtRandom(t *testing.T) {
	rec := newRecording(t)
	for range 300 {
		data := strings.Repeat(string(rune('a'+rand.IntN(26))), rand.IntN(300)) + strings.Repeat("\n", rand.IntN(2))
		data = strings.Repeat(data, 1+rand.IntN(60))
		if data == "" {
			continue
		}
		rec.write(data)
		if rand.IntN(3) == 0 {
			rec.r.Drain()
			continue
		}
		rec.r.Crash(crilog.Step(rand.IntN(6)), 1+rand.IntN(len(data)), rand.IntN(2*len(data)), false)
		rec.successor()
		rec.r.Drain()
	}
	rec.write("end\n")
	rec.r.Drain()
	rec.check()
}

func TestCrashAfterRotation(t *testing.T) {
	rec := newRecording(t)
	rec.write("first\n")
	rec.r.Drain()
	rec.write("second\n")
	rec.r.Crash(crilog.HalfWritten, 7, 20, false)
	if err := os.Rename(rec.log, rec.log+".20260101"); err != nil {
		t.Fatal(err)
	}
	rec.successor()
	rec.write("third\n")
	rec.r.Drain()
	if got := monitornode.Text(monitornode.ReadLog(t, rec.log+".20260101"), "stdout"); got != "first\nsecond\n" {
		t.Errorf("rotated log %q", got)
	}
	if got := monitornode.Text(monitornode.ReadLog(t, rec.log), "stdout"); got != "third\n" {
		t.Errorf("new log %q", got)
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, line := range []int{100, 16 << 10} {
		b.Run(fmt.Sprint("line=", line), func(b *testing.B) {
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				b.Fatal(err)
			}
			defer unix.Close(pipe[0])
			defer unix.Close(pipe[1])
			dir, err := os.MkdirTemp(monitornode.Shm(), "cri-monitor-bench-")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			r, err := crilog.NewRecorder(dir, filepath.Join(dir, "log"), pipe[0])
			if err == nil {
				err = r.Start()
			}
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			data := bytes.Repeat(append(bytes.Repeat([]byte("x"), line-1), '\n'), 65536/line)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := unix.Write(pipe[1], data); err != nil {
					b.Fatal(err)
				}
				r.Drain()
			}
		})
	}
}
