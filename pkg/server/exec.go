// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// runningContainer finds a container that something can be done inside of.
func (a *api) runningContainer(doing, id string) (state.Container, error) {
	c, err := a.visibleContainer(id)
	if err == nil && c.Phase != state.Running {
		err = fmt.Errorf("container %s is %s, not running: %w", c.ID, c.Phase, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", doing, err)
	}
	return c, nil
}

func (a *api) ExecSync(ctx context.Context, r *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	timeout, err := execSyncTimeout(r)
	if err != nil {
		return nil, err
	}
	c, err := a.runningContainer("exec", r.GetContainerId())
	if err != nil {
		return nil, err
	}
	ctx, leave := a.gate.until(ctx) // it may take for ever
	defer leave()
	out, err := a.Containers.ExecSync(ctx, c.ID, r.GetCmd(), timeout)
	stdout, stderr := fit(out.Stdout, out.Stderr, maxMessage-execOverhead)
	return &cri.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: out.ExitCode}, err
}

// execOverhead is more than everything but the outputs takes in the answer.
const execOverhead = 1 << 10

// fit cuts two outputs so that together they fit in limit: each may fill its
// half, and what the other leaves of its own.
func fit(a, b []byte, limit int) ([]byte, []byte) {
	roomA := max(limit/2, limit-len(b))
	a = a[:min(len(a), roomA)]
	return a, b[:min(len(b), limit-len(a))]
}

func (a *api) Exec(_ context.Context, r *cri.ExecRequest) (*cri.ExecResponse, error) {
	in, err := newExec(r)
	if err != nil {
		return nil, err
	}
	c, err := a.runningContainer("exec", r.GetContainerId())
	if err != nil {
		return nil, err
	}
	in.Container = c.ID
	url, err := a.Stream.GetExec(in)
	return &cri.ExecResponse{Url: url}, err
}

func (a *api) Attach(_ context.Context, r *cri.AttachRequest) (*cri.AttachResponse, error) {
	in, err := newAttach(r)
	if err != nil {
		return nil, err
	}
	c, err := a.runningContainer("attach", r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if in.TTY != c.Config.GetTty() {
		return nil, fmt.Errorf("attach: tty is %t, the container's is %t: %w", in.TTY, c.Config.GetTty(), errdefs.ErrInvalidArgument)
	}
	in.Container = c.ID
	url, err := a.Stream.GetAttach(in)
	return &cri.AttachResponse{Url: url}, err
}
