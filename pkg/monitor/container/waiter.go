// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// statusName is the file that a waiting program writes to: what it says of the
// container's end is there for the next monitor too, on any kernel.
const statusName = "status.json"

// standsFor tells whether the process watched only stands for the container,
// which is no process of this machine.
func (c *Container) standsFor() bool { return len(c.rec.Wait) > 0 }

// execute runs the program that starts the container, and returns the process to watch.
func (c *Container) execute(ctx context.Context, p *child.Program) (child.Process, error) {
	if !c.standsFor() {
		return c.set.Reaper.Start(ctx, p)
	}
	if err := c.set.Reaper.Execute(ctx, p); err != nil {
		return child.Process{}, err
	}
	return c.startWaiting(ctx, p)
}

// startWaiting starts the program that waits for the end of a container that runs.
func (c *Container) startWaiting(ctx context.Context, started *child.Program) (child.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return child.Process{}, fmt.Errorf("wait for container: %w", err)
	}
	defer null.Close()
	status, err := os.OpenFile(c.statusFile(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return child.Process{}, fmt.Errorf("wait for container: %w", err)
	}
	defer status.Close()
	return c.set.Reaper.Start(ctx, &child.Program{
		Argv: c.rec.Wait, Env: started.Env, Dir: started.Dir,
		Files: [3]int{int(null.Fd()), int(status.Fd()), int(null.Fd())},
	})
}

func (c *Container) statusFile() string { return filepath.Join(c.dir, statusName) }

// readStatus returns the exit code that the waiting program told, 128 and the
// signal's number where that ended the container.
func (c *Container) readStatus() (int, error) {
	var told struct {
		ExitStatus *int `json:"exitStatus"`
	}
	if err := readJSON(c.statusFile(), &told); err != nil {
		return 0, err
	}
	if told.ExitStatus == nil {
		return 0, errors.New("read exit status: there is none")
	}
	return *told.ExitStatus, nil
}

// waited is the exit of a container whose waiting program ended with status ws.
// One that gave up found nothing to wait for any more: what ran the container was
// killed, and the container with it. One that was killed itself knows nothing.
func (c *Container) waited(ws unix.WaitStatus) wire.Exit {
	e := c.lost()
	if e.Unknown && ws.Exited() {
		e.Code, e.Signal, e.Unknown = 128+int(unix.SIGKILL), int(unix.SIGKILL), false
	}
	return e
}
