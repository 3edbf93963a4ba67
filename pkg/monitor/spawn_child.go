// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// consoleMark in an argv stands for the path of the console socket.
const consoleMark = "{console}"

// program is one run of a launched argv: the runtime, not the container.
type program struct {
	argv, env []string
	dir       string
	files     [3]int
	pidFile   string // "": the program is what is wanted, not what it starts
}

// child is the process a program left, or the program itself.
type child struct {
	pid   int
	since time.Time // when the program was started
}

// hold returns a pidfd of c, -1 when it has ended. While c was not reaped its
// number is its own; the reaper notes whom it reaps first, so a descriptor that
// was there before such a note is c's.
func (m *Monitor) hold(c child) int {
	fd, err := sys.PidfdOpen(c.pid)
	if err != nil {
		return -1
	}
	if m.reap.reaped(c.pid, c.since) {
		unix.Close(fd)
		return -1
	}
	return fd
}

// end kills a process that nobody can take care of.
func (m *Monitor) end(c child) {
	if fd := m.hold(c); fd >= 0 {
		_ = sys.PidfdSignal(fd, sys.SIGKILL)
		unix.Close(fd)
	}
}

// endLeft kills what a program that failed, or was killed, had started by then.
// It fell to us with the program's end; a number that is no child of ours is
// another process's by now.
func (m *Monitor) endLeft(pidFile string, since time.Time) {
	pid, err := readPid(pidFile)
	if err != nil {
		return
	}
	left := child{pid: pid, since: since}
	fd := m.hold(left)
	if fd < 0 {
		return
	}
	defer unix.Close(fd)
	if st, err := sys.ReadProcStat(pid); err == nil && st.PPID == os.Getpid() {
		_ = sys.PidfdSignal(fd, sys.SIGKILL)
	}
}

// run starts the program and waits for it. It returns the pid in the pid file,
// or a LaunchError. When ctx ends first the program is killed. The caller has
// told the reaper that a launch is under way.
func (m *Monitor) run(ctx context.Context, p *program) (child, error) {
	started := child{since: time.Now()}
	if p.pidFile != "" {
		_ = os.Remove(p.pidFile) // an old one must not be taken for the program's
	}
	pid, pidfd, err := m.fork(p)
	if err != nil {
		return child{}, err
	}
	started.pid = pid
	if p.pidFile == "" {
		unix.Close(pidfd)
		return started, nil
	}
	defer unix.Close(pidfd)
	ended := make(chan unix.WaitStatus, 1)
	m.reap.await(pid, started.since, func(ws unix.WaitStatus) { ended <- ws })
	var status unix.WaitStatus
	select {
	case status = <-ended:
	case <-ctx.Done():
		_ = sys.PidfdSignal(pidfd, sys.SIGKILL)
		status = <-ended
	}
	if code, _ := exitCode(status); code != 0 {
		m.endLeft(p.pidFile, started.since)
		return child{}, &LaunchError{ExitCode: code}
	}
	started.pid, err = readPid(p.pidFile)
	return started, err
}

// fork starts the program in a session of its own.
func (m *Monitor) fork(p *program) (pid, pidfd int, err error) {
	if len(p.argv) == 0 || !filepath.IsAbs(p.argv[0]) {
		return 0, -1, invalidArgument{errors.New("launch: argv has no absolute path")}
	}
	attr := &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	if p.pidFile != "" {
		// A half-done launch is not to go on when nobody can take over what comes of it. The signal comes with the end
		// of the thread that forked, which the Go runtime keeps as long as the process; what the program itself starts
		// does not inherit it.
		attr.Pdeathsig = unix.SIGKILL
	}
	pidfd = -1
	pid, err = syscall.ForkExec(p.argv[0], p.argv, &syscall.ProcAttr{
		Dir: p.dir, Env: p.env,
		Files: []uintptr{uintptr(p.files[0]), uintptr(p.files[1]), uintptr(p.files[2])},
		Sys:   attr,
	})
	if err != nil {
		if pidfd >= 0 { // made before the exec failed
			unix.Close(pidfd)
		}
		return 0, -1, &LaunchError{ExitCode: 127, Stderr: fmt.Sprintf("execute %s: %v", p.argv[0], err)}
	}
	if m.oomAdj != "" {
		// Ours is low; what starts containers is not to hand that down. It needs a while before it forks itself.
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(m.oomAdj), 0) //nolint:gosec // procfs
	}
	return pid, pidfd, nil
}

func readPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read pid file %s: no pid in it", path)
	}
	return pid, nil
}

// exitCode translates a wait status as shells do.
func exitCode(ws unix.WaitStatus) (code, sig int) {
	if ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return ws.ExitStatus(), 0
}

// console is a socket the runtime sends the pty master to.
type console struct {
	path string
	fd   int
}

// newConsole listens on a path short enough for a socket address.
func (m *Monitor) newConsole() (*console, error) {
	c := &console{path: filepath.Join(m.o.Dir, "tty"+strconv.FormatUint(m.counter.Add(1), 36))}
	_ = os.Remove(c.path)
	var err error
	if c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("make console socket: %w", err)
	}
	err = unix.Bind(c.fd, &unix.SockaddrUnix{Name: c.path})
	if err == nil {
		err = unix.Listen(c.fd, 1)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("bind console socket %s: %w", c.path, err)
	}
	return c, nil
}

func (c *console) close() {
	unix.Close(c.fd)
	_ = os.Remove(c.path)
}

// fill puts the socket's path into argv.
func (c *console) fill(argv []string) []string {
	out := append([]string(nil), argv...)
	for i := range out {
		if out[i] == consoleMark {
			out[i] = c.path
		}
	}
	return out
}

// receive takes the pty master that the runtime has sent by the time it exits.
func (c *console) receive() (int, error) {
	conn, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("accept terminal: %w", err)
	}
	defer unix.Close(conn)
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, oobn, _, _, err := unix.Recvmsg(conn, b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("receive terminal: %w", err)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		closeFDs(fds)
		return -1, fmt.Errorf("receive terminal: %d descriptors came", len(fds))
	}
	return fds[0], nil
}
