// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// SpawnOptions say which monitor to start.
type SpawnOptions struct {
	Binary  string // absolute path of cri-monitor
	Dir     string // its state
	Socket  string
	LogFile string // appended to
}

// Spawn starts a monitor detached from this process: in its own session, with
// its own log, adopted by init when this process ends. It returns once the
// monitor listens. When another one already has the directory that is fine: it
// listens, or will in a moment.
func Spawn(ctx context.Context, o SpawnOptions) error {
	logFile, err := os.OpenFile(o.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open monitor log: %w", err)
	}
	defer logFile.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make readiness pipe: %w", err)
	}
	defer ready.Close()
	args := []string{"--dir", o.Dir, "--socket", o.Socket, "--ready-fd", "3"}
	cmd := exec.Command(o.Binary, args...) //nolint:noctx // it must outlive every context here
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = logFile, logFile, []*os.File{report}
	cmd.Dir = "/"
	// The service manager's socket is this process's: it takes nothing from a monitor that is no unit's main process.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	report.Close()
	if err != nil {
		return fmt.Errorf("start monitor: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps it should it die before us
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	answer, err := io.ReadAll(ready)
	switch said := strings.TrimSpace(string(answer)); {
	case said == "ready" || said == wire.ErrRunning.Error():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("start monitor: %w", context.Cause(ctx))
	case said != "":
		return fmt.Errorf("start monitor: %s", said)
	default:
		return fmt.Errorf("start monitor: it ended at once, see %s: %w", o.LogFile, errors.Join(err, unix.ECHILD))
	}
}
