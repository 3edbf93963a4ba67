// SPDX-License-Identifier: Apache-2.0

package layers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// LabelUpperDir is the label by which the overlay snapshotter says where it keeps a layer.
const LabelUpperDir = "containerd.io/snapshot/overlay.upperdir"

// Rebaser is the snapshotter as the unpacker sees it. Layers unpack side by side, before their parents are there, so a
// directory that a layer only implies ("tmp/x" without "tmp") would come out root's and 0755 and hide the parent's
// (/tmp 1777). The rebaser remembers such directories, and gives them the parent's owner and mode when the layer is
// committed on top of it.
type Rebaser struct {
	snapshots.Snapshotter

	mu      sync.Mutex          // guards pending
	pending map[string][]string // layer directory → what it implies, parents first
}

// NewRebaser wraps the snapshotter that layers are in.
func NewRebaser(s snapshots.Snapshotter) *Rebaser { return &Rebaser{Snapshotter: s} }

func (r *Rebaser) note(dir string, implied []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = map[string][]string{}
	}
	if len(implied) > 0 {
		r.pending[dir] = implied
	}
}

func (r *Rebaser) take(dir string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	implied := r.pending[dir]
	delete(r.pending, dir)
	return implied
}

// Commit seals a layer after it has been given its parent.
func (r *Rebaser) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return err
		}
	}
	mounts, err := r.Mounts(ctx, key)
	if err != nil {
		return err
	}
	dir, _, err := layerDirs(mounts)
	if err != nil {
		return err
	}
	if implied := r.take(dir); info.Parent != "" && len(implied) > 0 {
		if err := r.inherit(ctx, dir, info.Parent, implied); err != nil {
			return fmt.Errorf("take over directories from parent layers: %w", err)
		}
	}
	return r.Snapshotter.Commit(ctx, name, key, opts...)
}

// Remove also forgets what an abandoned layer implied. The unpacker may abandon a layer twice.
func (r *Rebaser) Remove(ctx context.Context, key string) error {
	if mounts, err := r.Mounts(ctx, key); err == nil && len(mounts) == 1 {
		if dir, _, err := layerDirs(mounts); err == nil {
			r.take(dir)
		}
	}
	if err := r.Snapshotter.Remove(ctx, key); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (r *Rebaser) inherit(ctx context.Context, dir, parent string, implied []string) error {
	layer, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer layer.Close()
	parents, err := r.openChain(ctx, parent)
	defer closeRoots(parents)
	if err != nil {
		return err
	}
	for _, d := range implied {
		if err := inheritOne(layer, parents, d); err != nil {
			return err
		}
	}
	return nil
}

// openChain opens the directories of a layer and those below it, top first.
func (r *Rebaser) openChain(ctx context.Context, name string) ([]*os.Root, error) {
	var roots []*os.Root
	for name != "" {
		info, err := r.Stat(ctx, name)
		if err != nil {
			return roots, err
		}
		root, err := os.OpenRoot(info.Labels[LabelUpperDir])
		if err != nil {
			return roots, err
		}
		roots = append(roots, root)
		name = info.Parent
	}
	return roots, nil
}

func closeRoots(roots []*os.Root) {
	for _, r := range roots {
		_ = r.Close() // opened for reading
	}
}

func inheritOne(layer *os.Root, parents []*os.Root, dir string) error {
	if fi, err := layer.Lstat(dir); err != nil || !fi.IsDir() {
		return nil // the layer removed it again, or reached it through a link
	}
	for _, p := range parents {
		fi, err := p.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !fi.IsDir() {
			return nil // a whiteout or another file: below it, this directory is new
		}
		from, err := sys.Owner(fi)
		if err != nil {
			return err
		}
		return errors.Join(layer.Lchown(dir, from.UID, from.GID), layer.Chmod(dir, from.Mode))
	}
	return nil
}
