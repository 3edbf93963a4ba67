// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Launch says how to start the container whose bundle was written.
type Launch struct {
	Handler string
	ID      string
	LogPath string // CRI log; "" discards output
	LogDir  string // the pod's log directory, in which LogPath lies

	Stdio     bool // false: /dev/null on all three
	Terminal  bool
	Stdin     bool
	StdinOnce bool
	UID, GID  int    // host owner of the stdio pipes: the container's user
	Label     string // SELinux context of the stdio pipes, "" for none

	Cgroups []string // host directories to read OOM counters from
	KillAll bool     // end what is left in them when the first process ends
}

// consolePlaceholder is replaced by the monitor with its console socket.
const consolePlaceholder = "{console}"

// launchLimit is how long a runtime may take to start a container, most of it
// mounts. One that takes longer hangs; it is killed, so that the container's
// lock does not hang with it.
const launchLimit = 2 * time.Minute

// Launch starts the container and returns once its program was executed. An
// error means that it was not: *monitor.LaunchError with the runtime's own
// message in its text.
func (s *Service) Launch(ctx context.Context, l Launch) (monitor.Launched, error) {
	h, err := s.Handler(l.Handler)
	if err != nil {
		return monitor.Launched{}, err
	}
	if err := os.MkdirAll(h.Root, 0o700); err != nil {
		return monitor.Launched{}, fmt.Errorf("make runtime root: %w", err)
	}
	pidFile := filepath.Join(s.bundle(l.ID), "init.pid")
	argv := append(h.flags(s.runtimeLog(l.ID)), "run", "--detach", "--bundle", s.bundle(l.ID), "--pid-file", pidFile)
	if l.Terminal {
		argv = append(argv, "--console-socket", consolePlaceholder)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, launchLimit,
		fmt.Errorf("%s did not start it within %s: %w", filepath.Base(h.Path), launchLimit, context.DeadlineExceeded))
	defer cancel()
	s.cgroups.Warm()
	what := monitor.Launch{
		ID: l.ID, Argv: append(argv, l.ID), Env: runtimeEnv(), Dir: s.bundle(l.ID), PidFile: pidFile,
		LogPath: l.LogPath, LogDir: l.LogDir,
		Stdio: l.Stdio, Terminal: l.Terminal, Stdin: l.Stdin, StdinOnce: l.StdinOnce,
		UID: l.UID, GID: l.GID, Label: l.Label, Cgroups: l.Cgroups, KillAll: l.KillAll,
	}
	if !h.HostProcesses {
		what.PidFile, what.Wait = "", append(h.flags(s.runtimeLog(l.ID)), "wait", l.ID)
	}
	launched, err := s.monitor.Launch(ctx, what)
	if err != nil {
		return launched, s.launchFailure(h, s.runtimeLog(l.ID), errdefs.ErrUnavailable, err)
	}
	if !h.HostProcesses {
		// What the monitor watches is in the node's namespaces; the sandbox's process is in the pod's.
		launched.Pid, err = readNumber(pidFile)
	}
	return launched, err
}

// Exec says what to run in a running container, and with which stdio.
type Exec struct {
	Handler string
	ID      string
	// Process is the command with its user, rights and environment. With a
	// Terminal stdio is one pty, and the three files are not used.
	Process *specs.Process
	Stdin   *os.File
	Stdout  *os.File
	Stderr  *os.File
	// Cgroup is the cgroup below the container's to run in, as the runtime's
	// flag has it; "" for the container's own.
	Cgroup string
}

// Command is one that runs in a container.
type Command struct {
	*monitor.Process
	service *Service
	handler Handler
	id      string // of the container
	inside  int    // its number in the sandbox; 0: it is a process of this machine
}

// execPrefix begins the name of the directory each command has in the bundle.
const execPrefix = "exec-"

// Exec starts a further process in a running container. An error of the
// command itself, one that is not there or must not be executed, is
// ErrInvalidArgument with the runtime's own message in its text.
func (s *Service) Exec(ctx context.Context, e Exec) (*Command, error) {
	h, err := s.Handler(e.Handler)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.bundle(e.ID), execPrefix)
	if err != nil {
		return nil, fmt.Errorf("make exec directory: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := writeProcess(dir, e.Process); err != nil {
		return nil, err
	}
	log, pidFile := filepath.Join(dir, "log"), filepath.Join(dir, "pid")
	argv := append(h.flags(log), "exec", "--detach", "--pid-file", pidFile, "--process", filepath.Join(dir, "process.json"))
	if e.Process.Terminal {
		argv = append(argv, "--console-socket", consolePlaceholder)
	}
	if e.Cgroup != "" {
		argv = append(argv, "--cgroup", e.Cgroup)
	}
	inside := filepath.Join(dir, "inside")
	if !h.HostProcesses {
		argv = append(argv, "--internal-pid-file", inside)
	}
	s.cgroups.Warm()
	p, err := s.monitor.Exec(ctx, monitor.Exec{
		Argv: append(argv, e.ID), Env: runtimeEnv(), Dir: dir, PidFile: pidFile,
		Terminal: e.Process.Terminal, OOMScoreAdj: e.Process.OOMScoreAdj, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr,
	})
	if err != nil {
		return nil, s.launchFailure(h, log, errdefs.ErrFailedPrecondition, err)
	}
	c := &Command{Process: p, service: s, handler: h, id: e.ID}
	if !h.HostProcesses {
		c.inside, err = readNumber(inside)
	}
	return c, err
}

func readNumber(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read process number: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read process number: %w", err)
	}
	return n, nil
}

func writeProcess(dir string, p *specs.Process) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode process: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "process.json"), data, 0o600); err != nil {
		return fmt.Errorf("write process: %w", err)
	}
	return nil
}

// launchFailure adds the runtime's own last message to a failed launch. mute is the class of one that was killed before it
// could say anything: a launch by somebody else than us, so that another may work; an exec with its container.
func (s *Service) launchFailure(h Handler, logFile string, mute, err error) error {
	var failed *monitor.LaunchError
	if !errors.As(err, &failed) {
		return err
	}
	log, _ := os.ReadFile(logFile) // missing when the runtime died before its first message
	message := lastMessage(log)
	if message == "" {
		message = lastMessage([]byte(failed.Stderr))
	}
	if message == "" {
		return fmt.Errorf("%s said nothing: %w: %w", filepath.Base(h.Path), err, mute)
	}
	class := classOf(message)
	if class == nil {
		class = errdefs.ErrFailedPrecondition // this container, on this machine, as it is now
	}
	return fmt.Errorf("%s: %w", filepath.Base(h.Path), &runtimeError{message: message, class: errors.Join(class, failed)})
}

// runtimeEnv is all a runtime gets to see of the daemon's environment.
func runtimeEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} { // systemd cgroup driver
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
