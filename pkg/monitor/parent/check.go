// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

const (
	checkPatience = 10 * time.Second
	maxCheck      = 4 << 10 // bytes of what a binary says
)

// checkNext runs the binary of the next image once, beside this one: one that is
// missing, is no program of this machine or ends with an error must not be what
// this process becomes. It returns what the binary says of itself.
func (m *Monitor) checkNext() (next wire.Build, err error) {
	ctx, cancel := context.WithTimeoutCause(m.ctx, checkPatience, fmt.Errorf("no answer for %s", checkPatience))
	defer cancel()
	said, err := m.runCheck(ctx)
	if err == nil {
		if err = json.Unmarshal(said, &next); err != nil {
			err = fmt.Errorf("it said %.200q", said)
		}
	}
	if err != nil {
		return next, wire.FailedPrecondition(fmt.Errorf("check %s: %w", m.o.Executable, err))
	}
	return next, nil
}

// runCheck returns what the binary wrote.
func (m *Monitor) runCheck(ctx context.Context) ([]byte, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer m.reap.Expect()()
	out := int(w.Fd())
	started, err := m.reap.Start(ctx, &child.Program{
		Argv: append([]string{m.o.Executable}, m.o.Check...), Env: os.Environ(), Files: [3]int{int(null.Fd()), out, out},
	})
	w.Close()
	if err != nil {
		return nil, checkError(err)
	}
	ended := make(chan unix.WaitStatus, 1)
	m.reap.Await(started.PID, started.Since, func(ws unix.WaitStatus) { ended <- ws })
	deadline, _ := ctx.Deadline()
	_ = r.SetReadDeadline(deadline)
	said, readErr := io.ReadAll(io.LimitReader(r, maxCheck))
	select {
	case ws := <-ended:
		if code, _ := child.ExitCode(ws); code != 0 {
			return nil, fmt.Errorf("exit status %d: %s", code, bytes.TrimSpace(said))
		}
		return said, readErr
	case <-ctx.Done():
		m.reap.Kill(started)
		return nil, context.Cause(ctx)
	}
}

// checkError says why the binary did not start, without a launch around it.
func checkError(err error) error {
	if failed, ok := errors.AsType[*wire.LaunchError](err); ok {
		return errors.New(failed.Stderr)
	}
	return err
}
