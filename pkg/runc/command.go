// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// commandTimeout bounds the short commands. They take milliseconds; one that
// takes this long hangs, and its object's lock must not hang with it.
const commandTimeout = 30 * time.Second

// Delete removes what the runtime keeps of a container whose process is dead:
// its state and its cgroup. What is gone already is fine.
func (s *Service) Delete(ctx context.Context, handler, id string) error {
	h, err := s.Handler(handler)
	if err != nil {
		return err
	}
	lock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Release()
	if !h.keeps(id) {
		return nil
	}
	_, err = s.command(ctx, h, id, program.Command{Lock: lock}, append(h.remove, id)...)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// keeps tells whether there may be something of a container among the runtime's
// state, which saves most calls of Delete a process. runc and crun name a
// directory after the container; of another runtime any name with its id counts.
// The name of what is in a pod's sandbox has the pod's id too.
func (h Handler) keeps(id string) bool {
	if _, err := os.Lstat(filepath.Join(h.Root, id)); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	entries, err := os.ReadDir(h.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.Contains(e.Name(), id) })
}

// Keeper names the handler among whose state there is something of a container
// that has no record; the default one where nothing is.
func (s *Service) Keeper(id string) string {
	for _, name := range s.Handlers() {
		if s.handlers[name].keeps(id) {
			return name
		}
	}
	return ""
}

// Update changes the cgroup limits of a running container.
func (s *Service) Update(ctx context.Context, handler, id string, r *specs.LinuxResources) error {
	h, err := s.Handler(handler)
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	lock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Release()
	_, err = s.command(ctx, h, id, program.Command{Lock: lock, Stdin: data}, "update", "--resources", "-", id)
	return err
}

// lock waits until no command works on the container, also one that an earlier
// daemon began: half of an update, or a delete without the hooks that follow
// it, is worse than a late one.
func (s *Service) lock(ctx context.Context, id string) (*program.Lock, error) {
	lock, err := s.locks.Take(ctx, id, commandTimeout)
	if err != nil {
		return nil, fmt.Errorf("wait for the runtime's command on %.12s: %w", id, err)
	}
	return lock, nil
}

// Features asks the handler's runtime what it can do (OCI runtime-spec
// features.md). Runtimes that do not know the question answer nothing: that is
// ErrNotImplemented. They are older than version 1.1 of the spec, which has it,
// and one of them, crun 1.8, refuses specs that name a newer one.
func (s *Service) Features(ctx context.Context, handler string) (*features.Features, error) {
	h, err := s.Handler(handler)
	if err != nil {
		return nil, err
	}
	out, err := s.command(ctx, h, "", program.Command{}, "features")
	if err != nil {
		s.versions.Store(h.Name, "1.0.2")
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	}
	s.versions.Delete(h.Name)
	f := &features.Features{}
	if err := json.Unmarshal(out, f); err != nil {
		return nil, fmt.Errorf("%s features: %w", h.Path, err)
	}
	return f, nil
}

// Check tells whether the default runtime can be executed at all.
func (s *Service) Check() error {
	h, err := s.Handler("")
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(h.Path); err != nil {
		return fmt.Errorf("runtime handler %q: %w: %w", h.Name, err, errdefs.ErrUnavailable)
	}
	return nil
}

// command runs one short runtime command to its end and returns its output.
func (s *Service) command(ctx context.Context, h Handler, id string, c program.Command, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout,
		fmt.Errorf("no answer for %s: %w", commandTimeout, context.DeadlineExceeded))
	defer cancel()
	argv := append(h.flags("/dev/stderr"), args...)
	c.Path, c.Args = argv[0], argv[1:]
	out, err := c.Run(ctx)
	if err != nil {
		return nil, s.failure(h, args[0], out.Stderr, err)
	}
	if out.Code == 0 {
		return out.Stdout, nil
	}
	message := lastMessage(out.Stderr)
	switch class := classOf(message); {
	case class != nil:
		return nil, fmt.Errorf("%s %s %.12s: %w", filepath.Base(h.Path), args[0], id, &runtimeError{message: message, class: class})
	case out.Signal != 0:
		return nil, s.failure(h, args[0], out.Stderr, fmt.Errorf("killed by signal %s", out.Signal))
	case message != "":
		return nil, fmt.Errorf("%s %s: %s", filepath.Base(h.Path), args[0], message)
	}
	return nil, s.failure(h, args[0], nil, fmt.Errorf("exit code %d", out.Code))
}

// failure adds the runtime's own last message, if it has one, to why a command
// failed.
func (s *Service) failure(h Handler, verb string, log []byte, err error) error {
	name := filepath.Base(h.Path)
	if message := lastMessage(log); message != "" {
		return fmt.Errorf("%s %s: %w: %s", name, verb, err, message)
	}
	return fmt.Errorf("%s %s: %w", name, verb, err)
}

// runtimeError carries a class without repeating the class's own text.
type runtimeError struct {
	message string
	class   error
}

func (e *runtimeError) Error() string { return e.message }
func (e *runtimeError) Unwrap() error { return e.class }

// classOf knows the few messages whose meaning matters to callers; runtimes
// have no other way to say it.
func classOf(message string) error {
	if strings.HasPrefix(message, "exec /") { // runc's init, which is no runc any more; a hook has "fork/exec /"
		return errdefs.ErrInvalidArgument
	}
	for _, known := range messages() {
		for _, part := range known.parts {
			if strings.Contains(message, part) {
				return known.class
			}
		}
	}
	return nil
}

type meaning struct {
	class error
	parts []string
}

// messages are those of runc 1.1 to 1.5, of crun 1.8 to 1.28 and of gVisor's runsc of 2026.
func messages() []meaning {
	return []meaning{
		{errdefs.ErrNotFound, []string{
			"container does not exist", "/status`: No such file or directory", "cannot open directory `",
			"loading container: file does not exist", "PID 0: no such process", "sandbox is not running", "no control socket found", "no such process group",
		}},
		{errdefs.ErrFailedPrecondition, []string{
			"cannot exec in a stopped container", "container is not running", "container not running", "` is not running",
		}},
		// A program or a working directory that the image does not have, or that is none.
		{errdefs.ErrInvalidArgument, []string{
			"executable file", ": exec: \"", "chdir to cwd (", "error during container init: mkdir ",
			"exists but it is not executable", "is not a regular file", "chdir to `", "exec container process", "exec `",
			"Exec format error", "exec format error", "failed to load /", "failed to find initial working directory",
		}},
		// D-Bus restarted under a runtime that asked systemd for a scope. The next attempt has a new connection.
		{errdefs.ErrUnavailable, []string{"/run/dbus/system_bus_socket", "cannot open sd-bus", "sd-bus call: Connection ", "sd-bus call: Transport "}},
	}
}

// lastMessage returns the last error in a JSON log, or the last line of
// anything else. crun writes one entry over several lines.
func lastMessage(log []byte) string {
	last := ""
	for log = bytes.TrimSpace(log); len(log) > 0; log = bytes.TrimSpace(log) {
		var entry struct{ Level, Msg string }
		if in := json.NewDecoder(bytes.NewReader(log)); log[0] == '{' && in.Decode(&entry) == nil {
			if entry.Level == "error" || entry.Level == "fatal" {
				last = entry.Msg
			}
			log = log[in.InputOffset():]
			continue
		}
		line, rest, _ := bytes.Cut(log, []byte("\n"))
		last, log = string(bytes.TrimSpace(line)), rest
	}
	return last
}
