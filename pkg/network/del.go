// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/network/leftover"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Del detaches the pod with the configuration that it was attached with, whatever the directory says now and whether or
// not its namespace is still there. It waits for a plugin that still works on the attachment. It is idempotent and costs
// one look-up for a pod that was never attached. Call it before the namespace is removed.
func (s *Service) Del(ctx context.Context, a Attachment) error {
	lock, err := s.lock(ctx, a.PodID)
	if err != nil {
		return err
	}
	defer lock.Release()
	return s.detach(ctx, lock, a)
}

// DelLost is Del for a pod of which nothing is known but its id and its namespace: the root directory, and the record of
// the attachment with it, may be lost. What plugins made outside of the namespace, a host port's rules, would stay.
func (s *Service) DelLost(ctx context.Context, a Attachment) error {
	lock, err := s.lock(ctx, a.PodID)
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, err := s.readRecord(a.PodID); errdefs.IsNotFound(err) && netns.Is(a.NetNS) {
		// portmap removes all that carries the pod's id, whatever the mappings were, but nothing where there were none.
		a.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 1, HostPort: 1}}
		if err := s.delUnrecorded(ctx, lock, a); err != nil {
			return err
		}
	}
	return s.detach(ctx, lock, a)
}

// lock waits until no other call works on the pod's attachment. A plugin that was left running by this process or the one
// before has the time limit to end. ErrInvalidArgument for an id that is none.
func (s *Service) lock(ctx context.Context, id string) (*program.Lock, error) {
	if err := utils.ValidateContainerID(id); err != nil {
		return nil, fmt.Errorf("pod id %q: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	lock, err := s.locks.Take(ctx, id, s.o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("wait for the attachment of pod %s: %w", id, err)
	}
	return lock, nil
}

// detach is Del with the lock held.
func (s *Service) detach(ctx context.Context, lock *program.Lock, a Attachment) error {
	rec, err := s.readRecord(a.PodID)
	switch {
	case err == nil:
		if err := s.del(ctx, lock, rec); err != nil {
			return err
		}
	case errdefs.IsDataLoss(err):
		s.log.Warn("attachment record unreadable, detaching without it", "pod", a.PodID, "err", err)
		if err := s.delUnrecorded(ctx, lock, a); err != nil {
			return err
		}
	case !errdefs.IsNotFound(err):
		return err
	}
	if err := s.removeRecord(a.PodID); err != nil {
		return err
	}
	s.unclaim(a.PodID)
	return nil
}

// del runs the plugins, and then looks for what they left.
func (s *Service) del(ctx context.Context, lock *program.Lock, rec record) error {
	list, rt, err := rec.conf()
	if err != nil {
		return err
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if !netns.Is(rt.NetNS) {
		rt.NetNS = "" // by the CNI specification: the namespace is gone, free what is outside of it
	}
	plugins := s.cni(pluginExec{lock: lock, soFar: s.notedResult(rt.ContainerID)})
	err = plugins.DelNetworkList(ctx, list, rt)
	if ctx.Err() == nil {
		found, left := leftover.Remove(ctx, lock, leftover.Attachment{Network: list.Name, Pod: rt.ContainerID, Interface: ifName})
		if found && left == nil {
			s.log.Info("packet filter rules left by plugins removed", "pod", rt.ContainerID, "network", list.Name)
		}
		if err != nil && found && left == nil { // a plugin may have stumbled over just that
			err = plugins.DelNetworkList(ctx, list, rt)
		}
		err = errors.Join(err, left)
	}
	if err != nil {
		return fmt.Errorf("delete from network %q: %w", list.Name, err)
	}
	return nil
}

// delUnrecorded is for a record that a power failure tore: libcni's cache knows the attachment if ADD had finished,
// else the present configuration is the best guess.
func (s *Service) delUnrecorded(ctx context.Context, lock *program.Lock, a Attachment) error {
	cached, err := s.cni(pluginExec{}).GetCachedAttachments(a.PodID)
	if err != nil {
		return fmt.Errorf("read attachment cache: %w", err)
	}
	var errs []error
	for _, c := range cached {
		errs = append(errs, s.del(ctx, lock, record{NetworkAttachment: *c}))
	}
	if len(cached) > 0 {
		return errors.Join(errs...)
	}
	list, err := s.list()
	if err != nil {
		return nil // no network there was, none there is
	}
	rt, err := s.runtime(a)
	if err != nil {
		return err
	}
	return s.del(ctx, lock, newRecord(list, rt))
}

// GC detaches every pod that is recorded as attached and not in valid, then has the plugins collect what no valid
// attachment owns, where their CNI version can (1.1). Pods attached since this service was made are valid whatever the
// list says. While an Add runs the plugins' part is left out with ErrUnavailable: call again. It assumes that no other
// runtime uses the same network on this node; a configuration with disableGC is respected.
func (s *Service) GC(ctx context.Context, valid []Attachment) error {
	keep := s.claimed()
	for _, a := range valid {
		keep[a.PodID] = struct{}{}
	}
	errs := s.delStale(ctx, keep)
	list, err := s.list()
	if err != nil || !atLeast11(list) {
		return errors.Join(errs...)
	}
	if !s.adds.TryLock() {
		return errors.Join(append(errs, fmt.Errorf("collect garbage of network %q: a pod is being attached: %w", list.Name, errdefs.ErrUnavailable))...)
	}
	defer s.adds.Unlock()
	for id := range s.claimed() { // those that came since
		keep[id] = struct{}{}
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if err := s.cni(pluginExec{}).GCNetworkList(ctx, list, gcArgs(keep)); err != nil {
		errs = append(errs, fmt.Errorf("collect garbage of network %q: %w", list.Name, err))
	}
	return errors.Join(errs...)
}

func (s *Service) delStale(ctx context.Context, keep map[string]struct{}) []error {
	ids, err := s.Attached()
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, id := range ids {
		if _, ok := keep[id]; ok {
			continue
		}
		s.log.Info("detaching a removed pod", "pod", id)
		if err := s.Del(ctx, Attachment{PodID: id}); err != nil {
			errs = append(errs, fmt.Errorf("pod %s: %w", id, err))
		}
	}
	return errs
}

func gcArgs(keep map[string]struct{}) *libcni.GCArgs {
	args := &libcni.GCArgs{}
	for id := range keep {
		args.ValidAttachments = append(args.ValidAttachments, gcAttachment(id))
	}
	return args
}
