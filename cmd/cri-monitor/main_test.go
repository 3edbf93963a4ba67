// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReportIsSaidOnce: once it is said the descriptor's number is another's.
func TestReportIsSaidOnce(t *testing.T) {
	starter, report := pipe(t)
	other, others := pipe(t)
	fd, err := unix.FcntlInt(report.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	report.Close()
	o := options{readyFD: fd}
	o.report(nil)
	if err := unix.Dup3(int(others.Fd()), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	o.report(errors.New("accept: something is wrong"))
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Error("somebody else's descriptor:", err)
	} else {
		unix.Close(fd)
	}
	others.Close()
	if said, err := io.ReadAll(starter); err != nil || string(said) != "ready" {
		t.Errorf("the starter read %q, %v", said, err)
	}
	if said, err := io.ReadAll(other); err != nil || len(said) > 0 {
		t.Errorf("somebody else read %q, %v", said, err)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}
