// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"maps"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
)

const (
	pauseUser        = 65535 // the conventional pause user; it needs no rights
	pauseOOMScoreAdj = -998  // with pause dies the pod, so it goes last
)

// PauseInput is all that the spec of a pod's infra container depends on.
type PauseInput struct {
	ID     string
	Config *cri.PodSandboxConfig
	RootFS string // absolute path of a directory that holds the program as "pause", directories "dev", with a file "null", and "proc"

	// Namespaces are joined where a path is given; others, unless they are the node's, are made.
	Namespaces  Namespaces
	CgroupsPath string         // from CgroupsPath
	Labels      confine.Labels // from confine.NewLabels

	PodAnnotations []string // as in ContainerInput
	OCIVersion     string   // likewise
	ShmPath        string   // likewise
	Host           Host
	Lookup         Lookup
}

// Pause builds the spec of a pod's infra container: the process that holds the pod's namespaces. It has no
// capabilities and a read-only root, whatever the pod's containers may do. Resources of the pod are not applied: the
// kubelet owns the pod's cgroup.
func Pause(in PauseInput) (*specs.Spec, error) {
	p := &pause{in: &in, sec: in.Config.GetLinux().GetSecurityContext(), spec: newSpec(in.OCIVersion, in.RootFS, true, in.CgroupsPath)}
	for _, rule := range []func() error{p.validate, p.process, p.namespaces, p.mounts, p.confine, p.annotations} {
		if err := rule(); err != nil {
			return nil, err
		}
	}
	return p.spec, nil
}

type pause struct {
	in   *PauseInput
	spec *specs.Spec
	sec  *cri.LinuxSandboxSecurityContext
}

func (p *pause) validate() error { return ValidatePod(p.in.Config, p.in.Host) }

func (p *pause) process() error {
	u := identity.User{UID: pauseUser, GID: pauseUser}
	if uids, gids := IDMappings(p.in.Config); len(uids) > 0 && (uids[0].Size <= pauseUser || gids[0].Size <= pauseUser) {
		u = identity.User{}
	}
	if v := p.sec.GetRunAsUser(); v != nil {
		u = identity.User{UID: uint32(v.Value), GID: uint32(p.sec.GetRunAsGroup().GetValue())}
	}
	u.Groups = identity.Groups(u.GID, nil, p.sec.GetSupplementalGroups())
	score := limits.NearestScore(pauseOOMScoreAdj, p.in.Host.Facts)
	p.spec.Process = &specs.Process{
		Args: []string{"/pause"}, Cwd: "/", User: u.Spec(), NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &score,
	}
	return nil
}

func (p *pause) namespaces() error {
	o, paths := podNamespaces(p.in.Config), p.in.Namespaces
	add := func(kind specs.LinuxNamespaceType, path string, mode cri.NamespaceMode) {
		if mode != cri.NamespaceMode_NODE {
			p.spec.Linux.Namespaces = append(p.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	add(specs.MountNamespace, "", cri.NamespaceMode_CONTAINER)
	if usernsOf(p.in.Config) != nil {
		add(specs.UserNamespace, paths.User, cri.NamespaceMode_POD)
		if paths.User == "" {
			p.spec.Linux.UIDMappings, p.spec.Linux.GIDMappings = IDMappings(p.in.Config)
		}
	}
	add(specs.NetworkNamespace, paths.Network, o.GetNetwork())
	add(specs.UTSNamespace, paths.UTS, o.GetNetwork())
	add(specs.IPCNamespace, paths.IPC, o.GetIpc())
	add(specs.PIDNamespace, paths.PID, o.GetPid())
	if !hostNetwork(p.in.Config) && paths.UTS == "" {
		p.spec.Hostname = p.in.Config.GetHostname()
		if p.spec.Hostname == "" {
			p.spec.Hostname = p.in.Host.Hostname
		}
	}
	p.spec.Linux.Sysctl = sysctls(p.in.Config)
	return nil
}

// mounts are as few as the runtime can do with, since each is on the way to every pod's start. It needs a /proc to drop
// capabilities and to write sysctls, and would fill /dev with nodes, unless something is mounted there by bind. crun opens
// /dev/null once more from inside. /dev has the restrictions that systemd gives /run, or a pod with a user namespace may not
// make it read-only: what the mount below has, only the node's root may take away. With SELinux the pod's /dev/shm is there too: from
// its label tools, critest among them, read which label the pod's files have, since pause's root is shared and has none of a pod.
func (p *pause) mounts() error {
	p.spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "bind", Source: filepath.Join(p.in.RootFS, "dev"), Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/null", Type: "bind", Source: "/dev/null", Options: []string{"bind"}},
	}
	if p.in.Labels.Mount != "" && p.in.ShmPath != "" {
		p.spec.Mounts = append(p.spec.Mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: p.in.ShmPath, Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}})
	}
	return nil
}

// confine sets seccomp and the LSMs as the pod asks for. A privileged pod says nothing about pause.
func (p *pause) confine() error {
	p.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	wanted, err := confine.Profile(confine.SeccompField, p.sec.GetSeccomp(), p.sec.GetSeccompProfilePath())
	if err != nil {
		return err
	}
	if p.spec.Linux.Seccomp, err = p.filter(wanted); err != nil {
		return err
	}
	if p.in.Host.SELinux {
		p.spec.Process.SelinuxLabel, p.spec.Linux.MountLabel = p.in.Labels.Process, p.in.Labels.Mount
	}
	p.spec.Process.ApparmorProfile, err = appArmorOf(p.in.Host, p.in.Lookup).Profile(p.sec.GetApparmor())
	return err
}

func (p *pause) filter(wanted *cri.SecurityProfile) (*specs.LinuxSeccomp, error) {
	if wanted != nil && wanted.GetProfileType() == cri.SecurityProfile_RuntimeDefault && p.in.Host.Seccomp {
		return confine.PauseFilter(), nil
	}
	return seccompOf(p.in.Host, p.in.Lookup).Filter(wanted, p.spec)
}

func (p *pause) annotations() error {
	maps.Copy(p.spec.Annotations, passed(p.in.Config.GetAnnotations(), p.in.PodAnnotations))
	annotatePod(p.spec.Annotations, p.in.ID, p.in.Config)
	annotatePause(p.spec.Annotations, p.in.Config)
	return nil
}
