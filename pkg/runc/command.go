// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
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
	if !h.keeps(id) {
		return nil
	}
	err = s.command(ctx, h, id, nil, nil, "delete", id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// keeps tells whether there may be something of a container among the runtime's
// state, which saves most calls of Delete a process. runc and crun name a
// directory after the container; of another runtime any name with its id counts.
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
	return s.command(ctx, h, id, bytes.NewReader(data), nil, "update", "--resources", "-", id)
}

// Features asks the handler's runtime what it can do (OCI runtime-spec
// features.md). Runtimes that do not know the question answer nothing: that is
// ErrNotImplemented.
func (s *Service) Features(ctx context.Context, handler string) (*features.Features, error) {
	h, err := s.Handler(handler)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := s.command(ctx, h, "", nil, &out, "features"); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	}
	f := &features.Features{}
	if err := json.Unmarshal(out.Bytes(), f); err != nil {
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

// command runs one short runtime command to its end.
func (s *Service) command(ctx context.Context, h Handler, id string, in io.Reader, out io.Writer, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout,
		fmt.Errorf("no answer for %s: %w", commandTimeout, context.DeadlineExceeded))
	defer cancel()
	var stderr bytes.Buffer
	argv := append(h.flags("/dev/stderr"), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	err := cmd.Start()
	if err == nil {
		sys.UnprotectChild(cmd.Process.Pid)
		err = cmd.Wait()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return s.failure(h, args[0], id, stderr.Bytes(), err)
}

// failure turns a runtime's log and exit into one error that ends with the
// runtime's own last message.
func (s *Service) failure(h Handler, verb, id string, log []byte, err error) error {
	name := filepath.Base(h.Path)
	message := lastMessage(log)
	if message == "" {
		return fmt.Errorf("%s %s: %w", name, verb, err)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s %s: %w: %s", name, verb, err, message)
	}
	if class := classOf(message); class != nil {
		return fmt.Errorf("%s %s %.12s: %w", name, verb, id, &runtimeError{message: message, class: class})
	}
	return fmt.Errorf("%s %s: %s", name, verb, message)
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

// messages are those of runc 1.1 to 1.5 and of crun 1.8 to 1.28.
func messages() []meaning {
	return []meaning{
		{errdefs.ErrNotFound, []string{"container does not exist", "/status`: No such file or directory", "cannot open directory `"}},
		{errdefs.ErrFailedPrecondition, []string{
			"cannot exec in a stopped container", "container is not running", "container not running", "` is not running",
		}},
		// A program or a working directory that the image does not have, or that is none.
		{errdefs.ErrInvalidArgument, []string{
			"executable file", ": exec: \"", "chdir to cwd (", "error during container init: mkdir ",
			"exists but it is not executable", "is not a regular file", "chdir to `", "exec container process", "exec `",
			"Exec format error", "exec format error",
		}},
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
