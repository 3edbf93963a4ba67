// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
)

// Kind names how a runtime runs containers.
type Kind string

// The kinds of runtimes.
const (
	Process Kind = "process" // containers are processes of this machine: runc, crun
	GVisor  Kind = "gvisor"  // a pod's containers run in a kernel of the pod's own: runsc
)

// Traits are what a kind can do and asks for. What follows from them is decided where it matters; which runtime has them
// is decided here alone.
type Traits struct {
	// HostProcesses: a container's first process is one of this machine, in a cgroup of the container's own. Without it
	// signals, exits and statistics come through the runtime, and what runs counts to the cgroup of the pod's pause.
	HostProcesses bool
	// NetworkFirst: it takes the pod's interfaces and addresses when the pod's first container starts.
	NetworkFirst bool
	// HostNamespaces: a pod may have namespaces of the node, or a user namespace, and a container the PID namespace of
	// another one.
	HostNamespaces bool

	flags  []string // global ones, in every call
	remove []string // the command that removes a container that ended
}

func traits() map[Kind]Traits {
	return map[Kind]Traits{
		Process: {HostProcesses: true, HostNamespaces: true, remove: []string{"delete"}},
		// It ignores seccomp profiles unless told not to. What ended is removed with force: what the container's first
		// process left running in the sandbox is not in a cgroup of its own that could be ended.
		// The namespace that its file servers share by default is a mount that nobody would remove.
		GVisor: {
			NetworkFirst: true,
			flags:        []string{"--oci-seccomp", "--gofer-network-namespace=new"}, remove: []string{"delete", "--force"},
		},
	}
}

// CheckKind refuses a kind that is none; "" is [Process].
func CheckKind(k Kind) error {
	known := traits()
	if _, ok := known[k]; !ok && k != "" {
		return fmt.Errorf("kind %q: known are %q: %w", k, slices.Sorted(maps.Keys(known)), errdefs.ErrInvalidArgument)
	}
	return nil
}
