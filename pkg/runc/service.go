// SPDX-License-Identifier: Apache-2.0

// Package runc keeps OCI bundles and speaks the command line that runc shares
// with crun, one set of arguments per RuntimeClass handler. README lists what a
// runtime must take.
//
// What starts a process (run, exec) goes through the monitor, which parents it;
// what only changes or removes (update, delete) runs as a short child of the
// daemon, which is let finish when the daemon ends (program.Command).
// Launch is the one place that decides what a container is started with.
//
// Invariants: bundle and runtime state derive from the id; Delete and
// RemoveBundle may be repeated; a runtime's failure ends in its own last
// message, parsed here and nowhere else.
//
// The package does not know CRI, pods or phases, and never asks a runtime to
// stop a process: `delete --force` sleeps, a pidfd does not.
package runc

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Handler is one RuntimeClass handler: a runtime binary and where it keeps state.
type Handler struct {
	Name    string
	Path    string // absolute
	Root    string // --root
	Systemd bool   // --systemd-cgroup
	Kind    Kind   // "" is Process

	Traits // of the kind; New sets them

	// The annotations that the runtime is to see in specs, as patterns of their keys; see oci.ContainerInput.
	PodAnnotations, ContainerAnnotations []string

	// OCIVersion is the version of the runtime-spec that its specs name. [Service.Features] finds it out; "" is ours.
	OCIVersion string
}

// Options configure the service.
type Options struct {
	Handlers []Handler
	Default  string // name of the handler that "" stands for
	Bundles  string // directory of the bundles
	Locks    string // directory of the locks of containers that a command works on; on a tmpfs
	Monitor  *monitor.Client
}

// Service runs OCI runtimes.
type Service struct {
	handlers map[string]Handler
	fallback string
	bundles  string
	monitor  *monitor.Client
	cgroups  *cgroup.MoveLock
	locks    *program.Locks // by container id
	forwards atomic.Uint64  // forwarded connections so far
	versions sync.Map       // of the runtime-spec, by the name of a handler whose features were asked for
}

// New checks the handlers and makes the service.
func New(o Options) (*Service, error) {
	s := &Service{handlers: map[string]Handler{}, fallback: o.Default, bundles: o.Bundles, monitor: o.Monitor, cgroups: cgroup.NewMoveLock(), locks: program.NewLocks(o.Locks)}
	for _, h := range o.Handlers {
		if !filepath.IsAbs(h.Path) || !filepath.IsAbs(h.Root) {
			return nil, fmt.Errorf("runtime handler %q: path %q and root %q must be absolute: %w", h.Name, h.Path, h.Root, errdefs.ErrInvalidArgument)
		}
		if err := CheckKind(h.Kind); err != nil {
			return nil, fmt.Errorf("runtime handler %q: %w", h.Name, err)
		}
		h.Traits = traits()[cmp.Or(h.Kind, Process)]
		s.handlers[h.Name] = h
	}
	if _, ok := s.handlers[o.Default]; !ok {
		return nil, fmt.Errorf("default runtime handler %q is not configured: %w", o.Default, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// Handler finds a handler by its RuntimeClass name; "" is the default one. An
// unknown name is ErrInvalidArgument, as CRI asks for rejection.
func (s *Service) Handler(name string) (Handler, error) {
	if name == "" {
		name = s.fallback
	}
	h, ok := s.handlers[name]
	if !ok {
		return Handler{}, fmt.Errorf("runtime handler %q is not configured, known are %q: %w", name, s.Handlers(), errdefs.ErrInvalidArgument)
	}
	if v, ok := s.versions.Load(name); ok {
		h.OCIVersion = v.(string)
	}
	return h, nil
}

// Handlers lists the configured names in order.
func (s *Service) Handlers() []string {
	var names []string
	for name := range s.handlers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Default is the name of the handler that "" stands for.
func (s *Service) Default() string { return s.fallback }

// flags are the global flags every call of a handler starts with.
func (h Handler) flags(logFile string) []string {
	args := []string{h.Path, "--root", h.Root, "--log", logFile, "--log-format", "json"}
	if h.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	return append(args, h.Traits.flags...)
}
