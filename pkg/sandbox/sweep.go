// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// sweep tears down what carries our names and has no record: ids the monitor
// watches, bundles, directories, snapshots, locks and network namespaces. It may run
// beside calls: a record is older than what is made for it, and is dropped last.
func (s *Service) sweep(ctx context.Context, seen view) error {
	known := s.recorded() // before the search: what is removed meanwhile is no orphan
	found, err := s.traces(seen)
	if err != nil {
		return err
	}
	for id := range known {
		delete(found, id)
	}
	if err := s.removeOrphans(ctx, found); err != nil {
		return err // the namespace of one whose CNI DEL failed must still be there for the next attempt
	}
	return s.sweepNetNS(ctx)
}

// recorded is the set of all ids with a record.
func (s *Service) recorded() map[string]bool {
	ids := map[string]bool{}
	for p := range s.Store.Pods() {
		ids[string(p.ID)] = true
	}
	for c := range s.Store.Containers() {
		ids[string(c.ID)] = true
	}
	return ids
}

// traces is the set of ids of which something exists on the node.
func (s *Service) traces(seen view) (map[string]bool, error) {
	found := map[string]bool{}
	for id := range seen.fates {
		found[id] = true
	}
	bundles, err := s.Runtime.BundleIDs()
	if err != nil {
		return nil, err
	}
	snapshots, err := s.RootFS.Keys()
	if err != nil {
		return nil, err
	}
	attached, err := s.Network.Attached()
	if err != nil {
		return nil, err
	}
	ids := slices.Concat(bundles, snapshots, attached)
	for _, dir := range []string{
		s.Layout.Pods(), s.Layout.Containers(), s.Layout.UserNamespaces(), s.Layout.RuntimeLocks(), s.Layout.CNILocks(),
	} {
		in, err := names(dir)
		if err != nil {
			return nil, err
		}
		ids = append(ids, in...)
	}
	for _, id := range ids {
		found[id[:min(len(id), state.IDLength)]] = true // a volume's key is its container's id and a suffix
	}
	return found, nil
}

// removeOrphans tears down those of the ids that have no record. Whether one was
// a pod or a container is not known: both teardowns find what is theirs. All are
// torn down as containers first, for a pod's cgroup holds its containers'.
func (s *Service) removeOrphans(ctx context.Context, ids map[string]bool) error {
	recorded := s.recorded() // again: what was begun since is no orphan either
	var errs []error
	var orphans []string
	for id := range ids {
		if recorded[id] || len(id) != state.IDLength {
			continue
		}
		if err := s.Containers.RemoveOrphan(ctx, state.ContainerID(id)); err != nil {
			errs = append(errs, err)
			continue
		}
		orphans = append(orphans, id)
	}
	for _, id := range orphans {
		errs = append(errs, s.teardown(ctx, state.PodID(id)))
	}
	return errors.Join(errs...)
}

// sweepNetNS removes pinned namespaces of which nothing else is left: no record
// of a pod, and none of an attachment, for which removeOrphans runs CNI DEL.
func (s *Service) sweepNetNS(ctx context.Context) error {
	pinned, err := netns.List(s.Layout.NetNSPrefix())
	if err != nil {
		return err
	}
	wanted := map[string]bool{} // asked after the list: a new pod's record is older than its namespace
	for p := range s.Store.Pods() {
		wanted[p.NetNS] = true
	}
	for _, path := range pinned {
		if wanted[path] {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("remove network namespace %s: not started: %w", path, err)
		}
		if err := netns.Remove(path); err != nil {
			return err
		}
		s.Log.Warn("network namespace without a record removed", "netns", path)
	}
	return nil
}

// CollectNetwork gives back every address that no pod of ours holds (CNI GC).
func (s *Service) CollectNetwork(ctx context.Context) error {
	var valid []network.Attachment
	for p := range s.Store.Pods() {
		if p.NetNS != "" {
			valid = append(valid, s.attachment(p))
		}
	}
	return s.Network.GC(ctx, valid)
}

// names are the names in a directory; none where it does not exist.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for what has no record: %w", err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// sweepPatience is the longest pause between sweeps: a plugin that was
// uninstalled may stay away for days.
const sweepPatience = time.Minute

// sweepAgain sweeps until it succeeds, at growing intervals. No client knows of
// an orphan, so none would ask for its removal.
func (s *Service) sweepAgain(ctx context.Context, seen view, err error) error {
	for pause := undoRetry; err != nil && ctx.Err() == nil; pause = min(2*pause, sweepPatience) {
		s.Log.Error("orphans left by the last daemon not torn down, trying again", "in", pause, "err", err)
		select {
		case <-time.After(pause):
			err = s.sweep(ctx, seen)
		case <-ctx.Done():
		}
	}
	return err
}
