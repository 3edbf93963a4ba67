// SPDX-License-Identifier: Apache-2.0

package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Host describes the machine a spec is for. It does not change while the daemon runs.
type Host struct {
	sys.Facts
	Hostname    string // the node's name: what pods without a hostname of their own get
	SeccompRoot string // where relative localhost profiles are looked up; "" = they are refused
}

// Lookup asks the machine what only the request decides on. A nil function means that a request in need of it is refused
// with ErrFailedPrecondition, apart from the two checks that then don't happen. Live returns one that asks the kernel.
type Lookup struct {
	// ReadFile returns a seccomp profile.
	ReadFile func(path string) ([]byte, error)
	// Devices returns the device at path, or all devices below the directory path.
	Devices func(path string) ([]sys.Device, error)
	// CDI injects the named CDI devices into the spec.
	CDI func(spec *specs.Spec, names []string) error
	// AppArmorLoaded reports whether the kernel holds the profile. nil: not checked.
	AppArmorLoaded func(profile string) (bool, error)
	// AppArmorDefault makes sure that the kernel holds the profile that RuntimeDefault means, and returns its name. asked
	// is false for a container about which nothing is said: that gets "" where the profile never was.
	AppArmorDefault func(asked bool) (profile string, err error)
	// Propagation reports how the mount that holds path propagates. nil: not checked.
	Propagation mount.Lookup
}

// Namespaces are the paths of a pod's namespaces. An empty path of a namespace that the pod does have is an error for a
// container and "make a new one" for pause.
type Namespaces struct {
	Network, IPC, UTS, PID, User string
	Target                       string // PID namespace of the container that NamespaceMode_TARGET names
}
