// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"errors"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Signal sends sig to a container's first process. ErrNotFound when it has ended.
func (s *Service) Signal(ctx context.Context, handler, id string, sig int) error {
	if h, sandboxed := s.sandboxed(handler); sandboxed {
		return s.signalInside(ctx, h, id, sig)
	}
	return s.monitor.Signal(ctx, id, sig)
}

// Kill ends a container's first process, or its launch, and returns when the
// monitor has dealt with that. ErrNotFound when it has ended already.
func (s *Service) Kill(ctx context.Context, handler, id string) error {
	h, sandboxed := s.sandboxed(handler)
	if !sandboxed || !h.keeps(id) {
		return s.monitor.Kill(ctx, id)
	}
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	err := s.monitor.AwaitEnd(limited, id, func() error { return s.signalInside(limited, h, id, sys.SIGKILL) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Its launch is under way, its sandbox does not answer, or it has ended: what stands for it is the monitor's to end.
	if killed := s.monitor.Kill(ctx, id); killed == nil || errdefs.IsNotFound(killed) {
		return killed
	}
	return err
}

// sandboxed finds the handler, and tells whether its containers are no processes
// of this machine. What a handler started that is not configured any more is taken
// for a process.
func (s *Service) sandboxed(handler string) (Handler, bool) {
	h, err := s.Handler(handler)
	return h, err == nil && !h.HostProcesses
}

func (s *Service) signalInside(ctx context.Context, h Handler, id string, sig int) error {
	_, err := s.command(ctx, h, id, program.Command{}, "kill", id, strconv.Itoa(sig))
	return err
}

// End kills a command that runs in a sandbox, and what is in its process group.
// One that is a process of this machine is ended by its cgroup.
func (c *Command) End(ctx context.Context) error {
	if c.inside == 0 {
		return nil
	}
	var errs []error
	for _, whom := range []string{"--pgid", "--pid"} {
		_, err := c.service.command(ctx, c.handler, c.id, program.Command{}, "kill", whom, strconv.Itoa(c.inside), c.id, strconv.Itoa(sys.SIGKILL))
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
