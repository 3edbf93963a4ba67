// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	killGrace = 5 * time.Second // how long a killed program may take to die before we stop waiting for it
	saidLimit = 1 << 10         // bytes of an output that an error repeats
	lingering = time.Second     // how long a child that has the output open may still write after the program's end
)

// Command is one run of a short-lived foreign program: given input, captured output, bounded by a context.
//
// With a Lock the program is let finish once it was begun: only the deadline of the context kills it. The end of the
// context before, or of this process, leaves it running, and whoever takes the lock next waits for it. Without a Lock it
// is killed in both cases: that is for programs that change nothing.
type Command struct {
	Path  string
	Args  []string // argv from element 1 on
	Env   []string
	Stdin []byte
	Lock  *Lock
}

// Result is what a program left.
type Result struct {
	Stdout, Stderr []byte         // up to 1 MiB of each, the rest is dropped
	Code           int            // exit code, -1 when a signal ended it
	Signal         syscall.Signal // 0 unless a signal ended it
}

// Said is the end of what the program wrote to its standard error, or to its standard output where that is empty: up to
// 1 KiB, without the space around it.
func (r Result) Said() string {
	said := strings.TrimSpace(string(r.Stderr))
	if said == "" {
		said = strings.TrimSpace(string(r.Stdout))
	}
	if len(said) > saidLimit {
		return "…" + said[len(said)-saidLimit:]
	}
	return said
}

// Run starts the program in a session of its own, without this process's protection from the OOM killer, and waits for
// it. What it leaves running is not waited for, save a second for the end of the output. When the program is killed its
// process group dies with it. The error is the context's cause when that ends first.
func (c Command) Run(ctx context.Context) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if c.Lock == nil {
		// PDEATHSIG comes when the thread that forked ends, so keep that thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	r, err := c.start()
	if err != nil {
		return Result{}, err
	}
	limit, cancel := c.limit(ctx)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- r.attend(limit)
	}()
	var left <-chan struct{}
	if c.Lock != nil {
		left = ctx.Done()
	}
	select {
	case err = <-done:
	case <-left:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = <-done
			break
		}
		c.Lock.leave()
		return Result{}, fmt.Errorf("gave up waiting, the program still runs: %w", context.Cause(ctx))
	}
	if err == nil && r.out.Code != 0 {
		err = r.cut(ctx)
	}
	return r.out, err
}

// cut says why a program that did not end well was not let finish; nil when it was. With a lock the deadline has a timer
// of its own, which may be earlier than the context's.
func (r *running) cut(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.stopped
}

// limit is the context whose end kills the program.
func (c Command) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Lock == nil {
		return context.WithCancel(ctx)
	}
	at, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(context.WithoutCancel(ctx))
	}
	return context.WithDeadline(context.WithoutCancel(ctx), at)
}

// running is a program between its start and its end.
type running struct {
	path    string
	leader  *os.Process
	process *sys.Process
	outputs [2]*output
	out     Result
	stopped error // why it was killed; nil when it was not
}

// start leaves no descriptor behind when it fails.
func (c Command) start() (*running, error) {
	r := &running{path: c.Path}
	stdin, err := c.stdin()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	files := []*os.File{stdin}
	for i := range r.outputs {
		o, child, err := newOutput()
		if err != nil {
			r.closeOutputs()
			return nil, err
		}
		defer child.Close()
		r.outputs[i], files = o, append(files, child)
	}
	attr := &syscall.SysProcAttr{Setsid: true, PidFD: new(int)}
	if c.Lock == nil {
		attr.Pdeathsig = syscall.SIGKILL
	}
	r.leader, err = os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{Env: c.Env, Files: files, Sys: attr})
	if err != nil {
		r.closeOutputs()
		return nil, err
	}
	sys.UnprotectChild(r.leader.Pid)
	if r.process, err = sys.NewProcess(*attr.PidFD); err != nil {
		r.closeOutputs()
		return nil, errors.Join(err, r.leader.Kill(), reap(r.leader))
	}
	for _, o := range r.outputs {
		go o.collect()
	}
	return r, nil
}

func reap(p *os.Process) error {
	_, err := p.Wait()
	return err
}

func (r *running) closeOutputs() {
	for _, o := range r.outputs {
		if o != nil {
			o.from.Close()
		}
	}
}

// stdin holds the input: the lock's file where there is one, which is how the program comes to hold the lock.
func (c Command) stdin() (*os.File, error) {
	if c.Lock != nil {
		if err := c.Lock.free(); err != nil {
			return nil, err
		}
		return c.Lock.input(c.Stdin)
	}
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	if _, err := f.WriteAt(c.Stdin, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write stdin: %w", err)
	}
	return f, nil
}

// attend waits for the program's end, which it brings about when limit ends, and fills r.out. It reaps last: up to then
// the process group's number can't be another's.
func (r *running) attend(limit context.Context) error {
	defer r.process.Close()
	r.stopped = r.process.AwaitEnd(limit)
	killed := r.stopped != nil
	if killed {
		r.killGroup()
		grace, cancel := context.WithTimeout(context.WithoutCancel(limit), killGrace)
		defer cancel()
		if err := r.process.AwaitEnd(grace); err != nil { // uninterruptible in the kernel: leave it, nothing can be done
			r.closeOutputs()
			_ = r.leader.Release()
			return fmt.Errorf("process %d does not die: %w", r.leader.Pid, err)
		}
	}
	if !killed && r.diedOfSignal() {
		r.killGroup() // its children would go on with half of its work
		killed = true
	}
	r.await(killed)
	st, err := r.leader.Wait()
	if err != nil {
		return fmt.Errorf("wait for %s: %w", r.path, err)
	}
	r.out.Code = st.ExitCode()
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.out.Signal = ws.Signal()
	}
	return nil
}

// await takes what was written. What the program itself wrote is in the pipes by now; of a child's output there is no
// more to come when the end of file is read, or after the time to linger.
func (r *running) await(killed bool) {
	wait := lingering
	if killed {
		wait = 0
	}
	end := time.Now().Add(wait)
	for i, into := range []*[]byte{&r.out.Stdout, &r.out.Stderr} {
		*into = r.outputs[i].until(end)
	}
}

func (r *running) killGroup() { _ = unix.Kill(-r.leader.Pid, unix.SIGKILL) }

// diedOfSignal looks at a process that ended and is not reaped.
func (r *running) diedOfSignal() bool {
	var info unix.Siginfo
	if unix.Waitid(unix.P_PID, r.leader.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil {
		return false
	}
	const killed, dumped = 2, 3 // CLD_KILLED, CLD_DUMPED
	return info.Code == killed || info.Code == dumped
}

// IsTextBusy reports whether a program could not be started because it is open for writing.
func IsTextBusy(err error) bool { return errors.Is(err, unix.ETXTBSY) }
