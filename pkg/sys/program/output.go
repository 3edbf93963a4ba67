// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const captureLimit = 1 << 20 // bytes of one output that are kept

// output is the pipe that a program writes to.
//
// The program's descriptor is open for reading as well as for writing. So the pipe has a reader as long as the program
// has it, and the death of this process costs the program neither SIGPIPE nor EPIPE. It is a pipe and no file because
// scripts reopen their output as /dev/stdout or /dev/stderr: that truncates a file, or writes over what is there.
type output struct {
	from *os.File
	kept bytes.Buffer
	done chan struct{} // closed at the end of file, or when reading was given up
}

// newOutput makes the pipe; child is the program's end, to be closed after the start.
func newOutput() (o *output, child *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, nil, fmt.Errorf("make output pipe: %w", err)
	}
	defer unix.Close(ends[1])
	from := os.NewFile(uintptr(ends[0]), "output")
	both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", ends[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		from.Close()
		return nil, nil, fmt.Errorf("open output pipe: %w", err)
	}
	// Room for a program that outlives us and goes on talking; without it the usual 64 KiB have to do.
	_, _ = unix.FcntlInt(uintptr(both), unix.F_SETPIPE_SZ, captureLimit)
	return &output{from: from, done: make(chan struct{})}, os.NewFile(uintptr(both), "output"), nil
}

// collect reads up to the end. What is beyond the limit is read too, so that the program does not wait for room.
func (o *output) collect() {
	defer close(o.done)
	_, err := io.CopyN(&o.kept, o.from, captureLimit)
	if err == nil {
		_, _ = io.Copy(io.Discard, o.from)
	}
}

// until returns what was written up to the end of file, or up to the given time if that is earlier, and at least what
// is in the pipe now.
func (o *output) until(end time.Time) []byte {
	defer o.from.Close()
	after := time.NewTimer(time.Until(end))
	defer after.Stop()
	select {
	case <-o.done:
	case <-after.C:
		_ = o.from.SetReadDeadline(time.Unix(1, 0))
		<-o.done
		o.drain()
	}
	return o.kept.Bytes()
}

// drain takes what is in the pipe and does not wait for more.
func (o *output) drain() {
	conn, err := o.from.SyscallConn()
	if err != nil {
		return
	}
	chunk := make([]byte, 1<<16)
	_ = conn.Control(func(fd uintptr) {
		for o.kept.Len() < captureLimit {
			n, err := unix.Read(int(fd), chunk[:min(len(chunk), captureLimit-o.kept.Len())])
			if n <= 0 || err != nil {
				return
			}
			o.kept.Write(chunk[:n])
		}
	})
}
