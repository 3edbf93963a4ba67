// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

const (
	checkPatience   = 10 * time.Second // for a binary to say its build
	replacePatience = time.Minute      // for a monitor to take no more launches, and to execute
)

// replaceOther has a monitor of another build execute the present binary: once for
// each monitor that this client meets, so that one which comes back as it was is
// let alone. Whatever becomes of it is one line in the log.
func (c *Client) replaceOther(ctx context.Context, h *wire.Hello) {
	if c.o.Binary == "" || c.offered == h.Instance {
		return
	}
	c.offered = h.Instance
	from, to := "unknown", ""
	if h.Build != nil {
		from = h.Build.Version
	}
	next, err := checkBinary(ctx, c.o.Binary)
	if err == nil {
		to = next.Version
		if !next.Replaces(h.Build) {
			return
		}
		err = c.replace(ctx, h)
	}
	if err != nil {
		c.o.Log.Warn("monitor not replaced, it goes on", "pid", h.PID, "from", from, "to", to, "err", err)
		return
	}
	c.o.Log.Info("monitor replaced in place", "pid", h.PID, "from", from, "to", to)
}

// replace asks for the upgrade, if what the monitor would execute is the binary. A
// monitor that does not say what it would execute is asked as well.
func (c *Client) replace(ctx context.Context, h *wire.Hello) error {
	if h.Executable != "" {
		own, err := os.Stat(c.o.Binary)
		if err != nil {
			return err
		}
		theirs, err := os.Stat(h.Executable)
		if err != nil {
			return err
		}
		if !os.SameFile(own, theirs) {
			return fmt.Errorf("it was started from %s, which is not %s", h.Executable, c.o.Binary)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, replacePatience)
	defer cancel()
	return c.Upgrade(ctx)
}

// checkBinary has a cri-monitor say which build it is.
func checkBinary(ctx context.Context, path string) (*wire.Build, error) {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--check")
	cmd.Stderr, cmd.WaitDelay = &stderr, time.Second
	said, err := cmd.Output()
	if err != nil {
		line, _, _ := bytes.Cut(bytes.TrimSpace(stderr.Bytes()), []byte("\n"))
		return nil, fmt.Errorf("check %s: %w", path, errors.Join(err, textError(line)))
	}
	b := new(wire.Build)
	if err := json.Unmarshal(said, b); err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	return b, nil
}

// textError is what a program said, nil when it said nothing.
func textError(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	return errors.New(string(line))
}
