// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Add brings the loopback up and attaches the pod to the present network. When a plugin fails, what others did before it
// is undone at once; if that fails too, both errors are returned and a later Del tries again. When ctx ends first, the
// plugin at work goes on, and a later Del waits for it and undoes all. An earlier attachment of the same pod is removed
// first. Classes: ErrUnavailable (no configuration, no plugin, a plugin that says "later"), ErrInvalidArgument (bad
// bandwidth annotation), context.DeadlineExceeded.
func (s *Service) Add(ctx context.Context, a Attachment) (Result, error) {
	s.adds.RLock()
	defer s.adds.RUnlock()
	rt, err := s.runtime(a)
	if err != nil {
		return Result{}, err
	}
	lock, err := s.lock(ctx, a.PodID)
	if err != nil {
		return Result{}, err
	}
	defer lock.Release()
	if err := s.detach(ctx, lock, a); err != nil { // one file look-up when there is nothing
		return Result{}, fmt.Errorf("clear earlier attachment: %w", err)
	}
	list, err := s.listFor(ctx, a)
	if err != nil {
		return Result{}, err
	}
	// Before anything is done: an undo would need the missing plugin as well.
	if err := s.installed(list); err != nil {
		return Result{}, err
	}
	if err := loopbackUp(a.NetNS); err != nil {
		return Result{}, err
	}
	s.claim(a.PodID)
	if err := s.writeRecord(newRecord(list, rt)); err != nil {
		return Result{}, err
	}
	res, err := s.add(ctx, lock, list, rt)
	if err == nil {
		return res, nil
	}
	err = fmt.Errorf("add to network %q: %w", list.Name, err)
	if ctx.Err() != nil { // a plugin may still be at work
		return Result{}, err
	}
	if undo := s.detach(context.WithoutCancel(ctx), lock, a); undo != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", undo))
	}
	return Result{}, err
}

func (s *Service) add(ctx context.Context, lock *program.Lock, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (Result, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	note := func(soFar []byte) { s.noteResult(rt.ContainerID, soFar) }
	res, err := s.cni(pluginExec{lock: lock, note: note}).AddNetworkList(ctx, list, rt)
	if err != nil {
		return Result{}, err
	}
	return result(res)
}

// loopbackUp is all that the loopback plugin would do, without running one. The kernel gives lo its addresses itself.
func loopbackUp(path string) error {
	err := netns.In(path, func() error {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}} // lo is always the first
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
