// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Add brings the loopback up and attaches the pod to the present network. When a plugin fails, what others did before it
// is undone at once; if that fails too, both errors are returned and a later Del tries again. An earlier attachment of the
// same pod is removed first. Classes: ErrUnavailable (no configuration, no plugin, a plugin that says "later"),
// ErrInvalidArgument (bad bandwidth annotation), context.DeadlineExceeded.
func (s *Service) Add(ctx context.Context, a Attachment) (Result, error) {
	s.adds.RLock()
	defer s.adds.RUnlock()
	rt, err := s.runtime(a)
	if err != nil {
		return Result{}, err
	}
	if err := s.Del(ctx, a); err != nil { // one file look-up when there is nothing
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
	if err := s.writeRecord(list, rt); err != nil {
		return Result{}, err
	}
	res, err := s.add(ctx, list, rt)
	if err == nil {
		return res, nil
	}
	err = fmt.Errorf("add to network %q: %w", list.Name, err)
	if undo := s.Del(context.WithoutCancel(ctx), a); undo != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", undo))
	}
	return Result{}, err
}

func (s *Service) add(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (Result, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	res, err := s.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return Result{}, err
	}
	return result(res)
}

// Check asks the plugins whether the pod's attachment is as they made it. ErrNotFound: the pod is not attached.
// ErrNotImplemented: its network's CNI version has no CHECK.
func (s *Service) Check(ctx context.Context, a Attachment) error {
	rec, err := s.readRecord(a.PodID)
	if err != nil {
		return fmt.Errorf("check attachment of pod %s: %w", a.PodID, err)
	}
	list, rt, err := rec.conf()
	if err != nil {
		return err
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if err := s.cni.CheckNetworkList(ctx, list, rt); errors.Is(err, libcni.ErrorCheckNotSupp) {
		return fmt.Errorf("check network %q: %w: %w", list.Name, err, errdefs.ErrNotImplemented)
	} else if err != nil {
		return fmt.Errorf("check network %q: %w", list.Name, err)
	}
	return nil
}

// loopbackUp is all that the loopback plugin would do, without running one. The kernel gives lo its addresses itself.
func loopbackUp(netns string) error {
	err := sys.InNetNS(netns, func() error {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}} // lo is always the first
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
