// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"runtime"

	"golang.org/x/sys/unix"
)

const (
	captureLimit = 1 << 20         // bytes of stdout and of stderr that are kept; a write beyond fails in the program
	killGrace    = 5 * time.Second // how long a killed program may take to die before we stop waiting for it
)

// Capture is one run of a short-lived foreign program: given input, captured output, bounded by a context.
type Capture struct {
	Path  string
	Args  []string // argv from element 1 on
	Env   []string
	Stdin []byte
}

// Captured is what a program left.
type Captured struct {
	Stdout, Stderr []byte
	Code           int            // exit code, -1 when a signal ended it
	Signal         syscall.Signal // 0 unless a signal ended it
}

// Run starts the program in a process group of its own and waits for it. When ctx ends the whole group is killed and the
// error is the context's cause. The program dies with this process. Its input and outputs are memory files, no pipes:
// nothing has to copy while it runs, and a grandchild that keeps them open can't hold up the return.
func (c Capture) Run(ctx context.Context) (Captured, error) {
	files, err := c.files()
	defer closeAll(files)
	if err != nil {
		return Captured{}, err
	}
	// PDEATHSIG comes when the thread that forked ends, so keep that thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pidfd := -1
	p, err := os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Env: c.Env, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, PidFD: &pidfd},
	})
	if err != nil {
		return Captured{}, err
	}
	defer unix.Close(pidfd)
	UnprotectChild(p.Pid)
	if err := awaitKilled(ctx, p.Pid, pidfd); err != nil {
		_ = p.Release()
		return Captured{}, err
	}
	st, err := p.Wait()
	if err != nil {
		return Captured{}, fmt.Errorf("wait for %s: %w", c.Path, err)
	}
	out := Captured{Code: st.ExitCode(), Stdout: written(files[1]), Stderr: written(files[2])}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out.Signal = ws.Signal()
	}
	if !st.Success() && ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	return out, nil
}

// awaitKilled returns once the process has ended, unreaped. The group is signalled only before that, so the number
// can't belong to somebody else yet.
func awaitKilled(ctx context.Context, pid, pidfd int) error {
	var mu sync.Mutex // guards ended
	ended := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
	})
	defer stop()
	for {
		wait := -1
		if at, ok := ctx.Deadline(); ok {
			wait = int(max(time.Until(at), 0)/time.Millisecond) + int(killGrace/time.Millisecond)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, wait)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		mu.Lock()
		ended = true
		mu.Unlock()
		if err != nil {
			return fmt.Errorf("poll process %d: %w", pid, err)
		}
		if n == 0 { // uninterruptible in the kernel: leave it, nothing can be done
			return fmt.Errorf("process %d does not die: %w", pid, context.Cause(ctx))
		}
		return nil
	}
}

// files are the memory files for stdin, stdout and stderr.
func (c Capture) files() ([]*os.File, error) {
	var files []*os.File
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			return files, fmt.Errorf("make memory file: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	if _, err := files[0].WriteAt(c.Stdin, 0); err != nil {
		return files, fmt.Errorf("write stdin: %w", err)
	}
	for _, f := range files[1:] { // size fixed in advance, so that output can't eat the node's memory
		if err := f.Truncate(captureLimit); err != nil {
			return files, fmt.Errorf("size memory file: %w", err)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
			return files, fmt.Errorf("seal memory file: %w", err)
		}
	}
	return files, nil
}

// written returns what was written to f: its size is fixed, but the offset is shared with whoever wrote.
func written(f *os.File) []byte {
	end, err := f.Seek(0, io.SeekCurrent)
	if err != nil || end == 0 {
		return nil
	}
	buf := make([]byte, min(end, captureLimit))
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return buf[:n]
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// IsTextBusy reports whether a program could not be started because somebody has it open for writing.
func IsTextBusy(err error) bool { return errors.Is(err, unix.ETXTBSY) }
