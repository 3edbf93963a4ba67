// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/mount"
)

// devices makes nodes and opens the device cgroup for them.
func (a *adjustment) devices() error {
	left := map[string]bool{}
	for _, d := range a.after.GetLinux().GetDevices() {
		left[d.GetPath()] = true
	}
	gone := func(d specs.LinuxDevice) bool { return !left[d.Path] }
	a.spec.Linux.Devices = slices.DeleteFunc(slices.Clone(a.spec.Linux.Devices), gone)
	for _, d := range a.want.GetLinux().GetDevices() {
		at, remove := d.IsMarkedForRemoval()
		same := func(d specs.LinuxDevice) bool { return d.Path == at }
		a.spec.Linux.Devices = slices.DeleteFunc(a.spec.Linux.Devices, same)
		if remove {
			continue
		}
		if !path.IsAbs(d.GetPath()) {
			return fmt.Errorf("%q is not an absolute path: %w", d.GetPath(), errdefs.ErrInvalidArgument)
		}
		node := d.ToOCI()
		a.spec.Linux.Devices = append(a.spec.Linux.Devices, node)
		if a.spec.Linux.Resources == nil {
			a.spec.Linux.Resources = &specs.LinuxResources{}
		}
		a.spec.Linux.Resources.Devices = append(a.spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor, Access: d.AccessString(),
		})
	}
	return nil
}

func (a *adjustment) netDevices() error {
	changes := a.want.GetLinux().GetNetDevices()
	if len(changes) == 0 {
		return nil
	}
	next := maps.Clone(a.spec.Linux.NetDevices)
	if next == nil {
		next = map[string]specs.LinuxNetDevice{}
	}
	for host := range changes {
		if name, remove := api.IsMarkedForRemoval(host); remove {
			delete(next, name)
		}
	}
	for host, d := range changes {
		if _, remove := api.IsMarkedForRemoval(host); !remove && d != nil {
			next[host] = d.ToOCI()
		}
	}
	a.spec.Linux.NetDevices = next
	return nil
}

func (a *adjustment) seccomp() error {
	p := a.want.GetLinux().GetSeccompPolicy()
	if p == nil {
		return nil
	}
	next := &specs.LinuxSeccomp{
		DefaultAction: specs.LinuxSeccompAction(p.GetDefaultAction()),
		ListenerPath:  p.GetListenerPath(), ListenerMetadata: p.GetListenerMetadata(),
		Syscalls: api.ToOCILinuxSyscalls(p.GetSyscalls()),
	}
	if e := p.GetDefaultErrno(); e != nil {
		errno := uint(e.GetValue())
		next.DefaultErrnoRet = &errno
	}
	for _, arch := range p.GetArchitectures() {
		next.Architectures = append(next.Architectures, specs.Arch(arch))
	}
	for _, flag := range p.GetFlags() {
		next.Flags = append(next.Flags, specs.LinuxSeccompFlag(flag))
	}
	a.spec.Linux.Seccomp = next
	return nil
}

func (a *adjustment) namespaces() error {
	known := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	}
	for _, n := range a.want.GetLinux().GetNamespaces() {
		name, remove := n.IsMarkedForRemoval()
		kind := specs.LinuxNamespaceType(name)
		if !slices.Contains(known, kind) {
			return fmt.Errorf("%q is not a namespace type: %w", name, errdefs.ErrInvalidArgument)
		}
		at := slices.IndexFunc(a.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		next := slices.Clone(a.spec.Linux.Namespaces)
		switch {
		case remove && at >= 0:
			next = slices.Delete(next, at, at+1)
		case remove:
		case at >= 0:
			next[at].Path = n.GetPath()
		default:
			next = append(next, specs.LinuxNamespace{Type: kind, Path: n.GetPath()})
		}
		a.spec.Linux.Namespaces = next
	}
	return nil
}

func (a *adjustment) sysctls() error {
	if changes := a.want.GetLinux().GetSysctl(); len(changes) > 0 {
		a.spec.Linux.Sysctl = edit(a.spec.Linux.Sysctl, changes)
	}
	return nil
}

func (a *adjustment) memoryPolicy() error {
	if p := a.want.GetLinux().GetMemoryPolicy().ToOCI(); p != nil {
		a.spec.Linux.MemoryPolicy = p
		if p.Mode == "" {
			a.spec.Linux.MemoryPolicy = nil
		}
	}
	return nil
}

// mounts replaces a mount at the same place. Removals come first: a place may come both ways.
func (a *adjustment) mounts() error {
	changes := a.want.GetMounts()
	if len(changes) == 0 {
		return nil
	}
	touched := map[string]bool{}
	for _, m := range changes {
		at, _ := m.IsMarkedForRemoval()
		touched[path.Clean(at)] = true
	}
	old := func(m specs.Mount) bool { return touched[path.Clean(m.Destination)] }
	a.spec.Mounts = slices.DeleteFunc(slices.Clone(a.spec.Mounts), old)
	for _, m := range changes {
		if _, remove := m.IsMarkedForRemoval(); remove {
			continue
		}
		made, err := a.mount(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.GetDestination(), err)
		}
		a.spec.Mounts = append(a.spec.Mounts, made)
	}
	mount.Sort(a.spec.Mounts)
	return nil
}

func (a *adjustment) mount(m *api.Mount) (specs.Mount, error) {
	at := path.Clean(m.GetDestination())
	if !path.IsAbs(at) || at == "/" {
		return specs.Mount{}, fmt.Errorf("no place for a mount: %w", errdefs.ErrInvalidArgument)
	}
	out := specs.Mount{Destination: at, Type: m.GetType(), Source: m.GetSource()}
	for _, option := range m.GetOptions() {
		if option == api.SELinuxRelabel {
			continue // NRI's own word, which no kernel knows
		}
		out.Options = append(out.Options, option)
		if err := mount.Propagate(a.spec.Linux, a.s.o.Host.Propagation, m.GetSource(), option); err != nil {
			return out, fmt.Errorf("%s: %w", option, err)
		}
	}
	return out, nil
}
