// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels are the SELinux contexts of a pod: what its processes run as and what its files carry. Both are empty on a
// machine without SELinux. They are kept with the pod, so that all its containers, also later ones, share a level.
type Labels struct{ Process, Mount string }

// NewLabels allocates labels for a pod: a level of its own unless the options name one. ReleaseLabels gives it back.
// The allocation lives in this process; HoldLabels repeats it after a restart.
func NewLabels(o *cri.SELinuxOption) (Labels, error) {
	if err := validateSELinux(o); err != nil {
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
		return Labels{}, invalid("linux.security_context.selinux_options", "%v", err)
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

// Relabel gives path and all below it the pod's mount label, as a mount's selinux_relabel asks for. A file system
// without labels is left alone. The paths of the system itself are refused.
func Relabel(path string, l Labels) error {
	if l.Mount == "" {
		return nil
	}
	if err := label.Relabel(path, l.Mount, false); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("relabel %s: %w", path, err)
	}
	return nil
}

// with returns the labels of a container that asks for its own options within the pod: what it does not name, its level
// above all, stays the pod's.
func (l Labels) with(o *cri.SELinuxOption) Labels {
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

func validateSELinux(o *cri.SELinuxOption) error {
	for name, value := range map[string]string{"user": o.GetUser(), "role": o.GetRole(), "type": o.GetType()} {
		if strings.ContainsAny(value, ":\x00") {
			return invalid("linux.security_context.selinux_options."+name, "%q is no part of a label", value)
		}
	}
	if strings.ContainsRune(o.GetLevel(), 0) {
		return invalid("linux.security_context.selinux_options.level", "holds a NUL")
	}
	return nil
}
