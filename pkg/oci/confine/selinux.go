// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

// Labels are the SELinux contexts of a pod: what its processes run as and what its files carry. Both are empty on a
// machine without SELinux. They are kept with the pod, so that all its containers, also later ones, share a level.
type Labels struct{ Process, Mount string }

// NewLabels allocates labels for a pod: a level of its own unless the options name one. ReleaseLabels gives it back.
// The allocation lives in this process; HoldLabels repeats it after a restart.
func NewLabels(o *cri.SELinuxOption) (Labels, error) {
	if err := ValidateSELinux(o); err != nil {
		return Labels{}, err
	}
	var options []string
	for key, value := range map[string]string{"user": o.GetUser(), "role": o.GetRole(), "type": o.GetType(), "level": o.GetLevel()} {
		if value != "" {
			options = append(options, key+":"+value)
		}
	}
	slices.Sort(options)
	process, mount, err := label.InitLabels(options)
	if err != nil {
		return Labels{}, refusal.Invalid("linux.security_context.selinux_options", "%v", err)
	}
	return Labels{Process: process, Mount: mount}, nil
}

// HoldLabels marks the level of a known pod as taken. It is idempotent.
func HoldLabels(l Labels) error {
	err := selinux.ReserveLabelV2(l.Process)
	if err == nil || errors.Is(err, selinux.ErrMCSAlreadyExists) {
		return nil
	}
	return fmt.Errorf("reserve label %s: %w", l.Process, err)
}

// ReleaseLabels frees the level of a pod that is gone. It is idempotent.
func ReleaseLabels(l Labels) { selinux.ReleaseLabel(l.Process) }

// Relabel gives path and all below it the pod's mount label, as a mount's selinux_relabel asks for. Links in path are
// followed, those below it are not; what is mounted below it is part of it, as in the container. A file system without
// labels is left alone. The paths of the system itself are refused. It ends with ctx, with ErrUnavailable: what has its
// label by then is not written again the next time.
func Relabel(ctx context.Context, path string, l Labels) error {
	if l.Mount == "" || !selinux.GetEnabled() {
		return nil
	}
	return relabelTree(ctx, path, l.Mount)
}

// LabelShared gives path and all below it the label of containers' files at the lowest level: every container may read and
// execute them. The policy's label of read-only files will not do, Debian's lets no container begin with one. Elsewhere
// than on a machine with SELinux it does nothing.
func LabelShared(ctx context.Context, path string) error {
	if !selinux.GetEnabled() {
		return nil
	}
	l, err := NewLabels(nil)
	if err != nil {
		return fmt.Errorf("label %s: %w", path, err)
	}
	ReleaseLabels(l)
	if l.Mount == "" {
		return nil // a policy without containers
	}
	return relabelTree(ctx, path, editLabel(l.Mount, "", "", "", "s0"))
}

func relabelTree(ctx context.Context, path, to string) error {
	root, err := filepath.EvalSymlinks(path)
	if err == nil {
		err = mayRelabel(root, to)
	}
	if err == nil {
		err = filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), errdefs.ErrUnavailable)
			}
			if at == root {
				return err // the last one: its label says that the others have theirs
			}
			return relabelEntry(at, d, to, err)
		})
	}
	if err == nil {
		err = relabelFile(root, to)
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("relabel %s: %w", path, err)
	}
	return nil
}

// mayRelabel gives a file the label that it has, which the library refuses to do to the system's paths. An error is
// ErrUnsupported where there are no labels.
func mayRelabel(path, to string) error {
	has, err := selinux.LfileLabel(path)
	if errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err != nil || has == "" {
		has = to
	}
	return selinux.Chcon(path, has, false)
}

// relabelEntry labels what a walk came to with err. What is gone has no need of it.
func relabelEntry(at string, d fs.DirEntry, to string, err error) error {
	if err == nil {
		err = relabelFile(at, to)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported) && d.IsDir():
		return filepath.SkipDir // another file system, without labels
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

func relabelFile(path, to string) error {
	if has, err := selinux.LfileLabel(path); err == nil && has == to {
		return nil
	}
	return selinux.LsetFileLabel(path, to)
}

// With returns the labels of a container that asks for its own options within the pod: what it does not name, its level
// above all, stays the pod's.
func (l Labels) With(o *cri.SELinuxOption) Labels {
	l.Process = editLabel(l.Process, o.GetUser(), o.GetRole(), o.GetType(), o.GetLevel())
	l.Mount = editLabel(l.Mount, o.GetUser(), "", "", o.GetLevel())
	return l
}

// editLabel replaces the parts of user:role:type:level that are given; the level may itself hold colons.
func editLabel(context string, parts ...string) string {
	fields := strings.SplitN(context, ":", 4)
	if len(fields) < 4 {
		return context
	}
	for i, part := range parts {
		if part != "" {
			fields[i] = part
		}
	}
	return strings.Join(fields, ":")
}

// ValidateSELinux checks the parts of a label.
func ValidateSELinux(o *cri.SELinuxOption) error {
	for name, value := range map[string]string{"user": o.GetUser(), "role": o.GetRole(), "type": o.GetType()} {
		if strings.ContainsAny(value, ":\x00") {
			return refusal.Invalid("linux.security_context.selinux_options."+name, "%q is no part of a label", value)
		}
	}
	if strings.ContainsRune(o.GetLevel(), 0) {
		return refusal.Invalid("linux.security_context.selinux_options.level", "holds a NUL")
	}
	return nil
}
