// SPDX-License-Identifier: Apache-2.0

package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const nsField = "linux.security_context.namespace_options."

// hostNetwork reports whether the pod has the node's network, and with it the node's UTS namespace.
func hostNetwork(config *cri.PodSandboxConfig) bool {
	return podNamespaces(config).GetNetwork() == cri.NamespaceMode_NODE
}

func podNamespaces(config *cri.PodSandboxConfig) *cri.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// usernsOf returns the pod's user namespace, or nil when it runs in the node's. No message at all means none: it is
// from a client that knows no user namespaces.
func usernsOf(config *cri.PodSandboxConfig) *cri.UserNamespace {
	u := podNamespaces(config).GetUsernsOptions()
	if u == nil || u.GetMode() != cri.NamespaceMode_POD {
		return nil
	}
	return u
}

// IDMappings returns the maps of the pod's user namespace; both nil when it has none of its own.
func IDMappings(config *cri.PodSandboxConfig) (uids, gids []specs.LinuxIDMapping) {
	u := usernsOf(config)
	return idMappings(u.GetUids()), idMappings(u.GetGids())
}

func idMappings(in []*cri.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// namespaces joins those of the pod; only mount and cgroup are always the container's own.
func (c *container) namespaces() error {
	want, pod, paths := c.sec.GetNamespaceOptions(), podNamespaces(c.in.Sandbox), c.in.Namespaces
	if u := want.GetUsernsOptions(); u != nil && !sameUserns(u, pod.GetUsernsOptions()) {
		return refusal.Invalid(nsField+"userns_options", "differ from the pod's")
	}
	c.addNamespace(specs.MountNamespace, "")
	if c.in.Host.CgroupV2 && !c.privileged {
		c.addNamespace(specs.CgroupNamespace, "")
	}
	if usernsOf(c.in.Sandbox) != nil {
		if paths.User == "" {
			return refusal.Unmet(nsField+"userns_options", "the pod's user namespace is unknown")
		}
		// The mappings come with the namespace; runc warns when they are given besides.
		c.addNamespace(specs.UserNamespace, paths.User)
	}
	if err := c.joinPod(specs.NetworkNamespace, paths.Network, want.GetNetwork(), pod.GetNetwork()); err != nil {
		return err
	}
	if err := c.joinPod(specs.UTSNamespace, paths.UTS, want.GetNetwork(), pod.GetNetwork()); err != nil {
		return err
	}
	if want.GetIpc() == cri.NamespaceMode_CONTAINER {
		c.addNamespace(specs.IPCNamespace, "")
	} else if err := c.joinPod(specs.IPCNamespace, paths.IPC, want.GetIpc(), pod.GetIpc()); err != nil {
		return err
	}
	switch want.GetPid() {
	case cri.NamespaceMode_CONTAINER:
		c.addNamespace(specs.PIDNamespace, "")
		return nil
	case cri.NamespaceMode_TARGET:
		if paths.Target == "" {
			return refusal.Invalid(nsField+"target_id", "container %q is not running in this pod", want.GetTargetId())
		}
		c.addNamespace(specs.PIDNamespace, paths.Target)
		return nil
	}
	return c.joinPod(specs.PIDNamespace, paths.PID, want.GetPid(), pod.GetPid())
}

// joinPod joins what the pod has. A pod in the node's namespace has nothing to join, and a container can't leave a pod
// that is not.
func (c *container) joinPod(kind specs.LinuxNamespaceType, path string, want, pod cri.NamespaceMode) error {
	field := nsField + string(kind)
	switch {
	case pod == cri.NamespaceMode_NODE:
		return nil
	case want == cri.NamespaceMode_NODE:
		return refusal.Invalid(field, "mode NODE in a pod that is not in the node's namespace")
	case path == "":
		return refusal.Unmet(field, "the pod's namespace is unknown")
	}
	c.addNamespace(kind, path)
	return nil
}

func (c *container) addNamespace(kind specs.LinuxNamespaceType, path string) {
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

// sameUserns takes mode NODE and no message for the same.
func sameUserns(a, b *cri.UserNamespace) bool {
	if a.GetMode() == cri.NamespaceMode_NODE && (b == nil || b.GetMode() == cri.NamespaceMode_NODE) {
		return true
	}
	return proto.Equal(a, b)
}

// validateContainerNamespaces checks a container's namespace options by themselves.
func validateContainerNamespaces(o *cri.NamespaceOption) error {
	if m := o.GetNetwork(); m != cri.NamespaceMode_POD && m != cri.NamespaceMode_NODE {
		return refusal.Invalid(nsField+"network", "mode %s is not supported", m)
	}
	if m := o.GetIpc(); m != cri.NamespaceMode_POD && m != cri.NamespaceMode_NODE && m != cri.NamespaceMode_CONTAINER {
		return refusal.Invalid(nsField+"ipc", "mode %s is not supported", m)
	}
	if _, known := cri.NamespaceMode_name[int32(o.GetPid())]; !known {
		return refusal.Invalid(nsField+"pid", "mode %s is not supported", o.GetPid())
	}
	if (o.GetTargetId() != "") != (o.GetPid() == cri.NamespaceMode_TARGET) {
		return refusal.Invalid(nsField+"target_id", "needs PID mode TARGET, and PID mode TARGET needs it")
	}
	return nil
}

// validateNamespaces checks a pod's namespace options.
func validateNamespaces(o *cri.NamespaceOption) error {
	if m := o.GetNetwork(); m != cri.NamespaceMode_POD && m != cri.NamespaceMode_NODE {
		return refusal.Invalid(nsField+"network", "mode %s is not supported for a pod", m)
	}
	if m := o.GetIpc(); m != cri.NamespaceMode_POD && m != cri.NamespaceMode_NODE {
		return refusal.Invalid(nsField+"ipc", "mode %s is not supported for a pod", m)
	}
	if m := o.GetPid(); m != cri.NamespaceMode_POD && m != cri.NamespaceMode_NODE && m != cri.NamespaceMode_CONTAINER {
		return refusal.Invalid(nsField+"pid", "mode %s is not supported for a pod", m)
	}
	if o.GetTargetId() != "" {
		return refusal.Invalid(nsField+"target_id", "set for a pod")
	}
	return validateUserns(o)
}

func validateUserns(o *cri.NamespaceOption) error {
	const field = nsField + "userns_options"
	u := o.GetUsernsOptions()
	switch {
	case u == nil:
		return nil
	case u.GetMode() == cri.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return refusal.Invalid(field, "mappings given for mode NODE")
		}
		return nil
	case u.GetMode() != cri.NamespaceMode_POD:
		return refusal.Invalid(field, "mode %s is not supported", u.GetMode())
	case o.GetPid() == cri.NamespaceMode_NODE || o.GetIpc() == cri.NamespaceMode_NODE:
		return refusal.Invalid(field, "a user namespace can't be had together with the node's PID or IPC namespace")
	}
	for name, maps := range map[string][]*cri.IDMapping{"uids": u.GetUids(), "gids": u.GetGids()} {
		if len(maps) != 1 || maps[0].GetContainerId() != 0 {
			return refusal.Invalid(field+"."+name, "need exactly one mapping, and it must map id 0")
		}
		if maps[0].GetLength() == 0 || uint64(maps[0].GetHostId())+uint64(maps[0].GetLength()) > 1<<32-1 {
			return refusal.Invalid(field+"."+name, "a mapping of %d ids from %d is no range", maps[0].GetLength(), maps[0].GetHostId())
		}
	}
	return nil
}
