// SPDX-License-Identifier: Apache-2.0

// Package mount has what the mounts of a container have to keep to, whoever asks for them: the order in which a runtime
// makes them, and that a source propagates as much as the mount wants.
//
// It makes no mount and knows no request: the caller says which field of its own was wrong.
package mount

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Sort puts parents before children, and otherwise keeps the order.
func Sort(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
}

// Propagation is how mount events leave and reach a mount.
type Propagation struct {
	Mount  string // mount point that holds the path
	Shared bool   // events go out, and come in
	Slave  bool   // events come in
}

// PropagationOf finds the mount that holds path, the nearest above it with the last one on top.
func PropagationOf(path string) (Propagation, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Propagation{}, fmt.Errorf("resolve %s: %w", path, err)
	}
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return Propagation{}, fmt.Errorf("read mounts above %s: %w", real, err)
	}
	var p Propagation
	for _, m := range above {
		if len(m.Mountpoint) < len(p.Mount) {
			continue
		}
		p = Propagation{Mount: m.Mountpoint}
		for field := range strings.FieldsSeq(m.Optional) {
			p.Shared = p.Shared || strings.HasPrefix(field, "shared:")
			p.Slave = p.Slave || strings.HasPrefix(field, "master:")
		}
	}
	return p, nil
}

// Lookup is [PropagationOf], or what stands in for it.
type Lookup func(path string) (Propagation, error)

// NotSharedError is a source on a mount that does not propagate as asked. It is of class ErrFailedPrecondition.
type NotSharedError struct {
	Source, Mount string // path, and the mount point that holds it
}

func (e *NotSharedError) Error() string {
	return fmt.Sprintf("%s is on mount %s, which is not shared", e.Source, e.Mount)
}

// Unwrap gives the class.
func (e *NotSharedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Propagate lets the root of linux propagate as much as a mount of source with the option does: rshared and shared, or
// rslave and slave. Other options need nothing of it. Errors: what look says, or *NotSharedError. Without look the source
// is not checked.
func Propagate(linux *specs.Linux, look Lookup, source, option string) error {
	root := "r" + strings.TrimPrefix(option, "r")
	if root != "rshared" && root != "rslave" {
		return nil
	}
	if look != nil {
		p, err := look(source)
		if err != nil {
			return err
		}
		if !p.Shared && (root == "rshared" || !p.Slave) {
			return &NotSharedError{source, p.Mount}
		}
	}
	if linux.RootfsPropagation != "rshared" {
		linux.RootfsPropagation = root
	}
	return nil
}
