// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"fmt"
	"maps"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podMessage is a pod in NRI's terms.
func podMessage(p Pod) *api.PodSandbox {
	return &api.PodSandbox{
		Id: p.ID, Name: p.Name, Uid: p.UID, Namespace: p.Namespace,
		Labels: p.Labels, Annotations: p.Annotations, RuntimeHandler: p.RuntimeHandler,
		Pid: uint32(p.PID), Ips: p.IPs,
		Linux: &api.LinuxPodSandbox{
			PodOverhead: fromCRI(p.Overhead), PodResources: fromCRI(p.Resources), Resources: fromCRI(p.Resources),
			CgroupParent: p.CgroupParent, CgroupsPath: p.CgroupsPath, Namespaces: podNamespaces(p),
		},
	}
}

// podNamespaces are those pause holds. The pinned path of the network's is good even after pause.
func podNamespaces(p Pod) []*api.LinuxNamespace {
	var out []*api.LinuxNamespace
	if p.NetNS != "" {
		out = append(out, &api.LinuxNamespace{Type: string(specs.NetworkNamespace), Path: p.NetNS})
	}
	if p.PID == 0 {
		return out
	}
	for kind, file := range map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid"} {
		out = append(out, &api.LinuxNamespace{Type: string(kind), Path: fmt.Sprintf("/proc/%d/ns/%s", p.PID, file)})
	}
	return out
}

// containerMessage is a container in NRI's terms. It shares nothing with the spec that the library writes to.
func (s *Service) containerMessage(c Container) *api.Container {
	m := &api.Container{
		Id: c.ID, PodSandboxId: c.PodID, Name: c.Name, State: stateMessage(c.State),
		Labels: c.Labels, Annotations: c.Annotations, Pid: uint32(c.PID),
		CreatedAt: nanoseconds(c.CreatedAt), StartedAt: nanoseconds(c.StartedAt), FinishedAt: nanoseconds(c.FinishedAt),
		ExitCode: c.ExitCode, StatusReason: c.StatusReason, StatusMessage: c.StatusMessage,
		Image: &api.Image{Name: c.ImageName, ConfigDigest: c.ImageID},
		Linux: &api.LinuxContainer{SeccompProfile: seccompProfile(c.Seccomp)},
	}
	for _, name := range c.CDIDevices {
		m.CDIDevices = append(m.CDIDevices, &api.CDIDevice{Name: name})
	}
	if c.Spec == nil {
		return m
	}
	spec, err := c.Spec()
	if err != nil || spec == nil {
		s.log.Debug("plugins see a container without its spec", "container", c.ID, "err", err)
		return m
	}
	describeSpec(m, spec)
	return m
}

func describeSpec(m *api.Container, spec *specs.Spec) {
	m.Mounts, m.Hooks = api.FromOCIMounts(spec.Mounts), api.FromOCIHooks(spec.Hooks)
	if p := spec.Process; p != nil {
		m.Args, m.Env = p.Args, p.Env
		for _, l := range p.Rlimits {
			m.Rlimits = append(m.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
		m.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		m.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		m.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		m.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
	}
	l := spec.Linux
	if l == nil {
		return
	}
	m.Linux.Namespaces, m.Linux.Devices = api.FromOCILinuxNamespaces(l.Namespaces), api.FromOCILinuxDevices(l.Devices)
	m.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
	m.Linux.CgroupsPath, m.Linux.Sysctl = l.CgroupsPath, maps.Clone(l.Sysctl)
	m.Linux.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
	if l.Seccomp != nil {
		m.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
	}
	if r := l.IntelRdt; r != nil {
		m.Linux.Rdt = &api.LinuxRdt{
			ClosId: api.String(r.ClosID), Schemata: api.RepeatedString(r.Schemata), EnableMonitoring: api.Bool(r.EnableMonitoring),
		}
	}
}

func stateMessage(s cri.ContainerState) api.ContainerState {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return api.ContainerState_CONTAINER_CREATED
	case cri.ContainerState_CONTAINER_RUNNING:
		return api.ContainerState_CONTAINER_RUNNING
	case cri.ContainerState_CONTAINER_EXITED:
		return api.ContainerState_CONTAINER_STOPPED
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}

// seccompProfile: none asked for is unconfined, which NRI says by none as well.
func seccompProfile(p *cri.SecurityProfile) *api.SecurityProfile {
	if p == nil {
		return nil
	}
	m := &api.SecurityProfile{LocalhostRef: p.GetLocalhostRef()}
	switch p.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault:
		m.ProfileType = api.SecurityProfile_RUNTIME_DEFAULT
	case cri.SecurityProfile_Unconfined:
		m.ProfileType = api.SecurityProfile_UNCONFINED
	case cri.SecurityProfile_Localhost:
		m.ProfileType = api.SecurityProfile_LOCALHOST
	}
	return m
}

// nanoseconds since 1970; 0 for what has not happened.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
