// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const ttyGroup = 5 // the group "tty" on every distribution, which owns the slaves of /dev/pts

// mounts lays out the file system: what every container has, what the pod gives, what the image declares, what the
// config asks for. A mount of the config replaces the one we would have made at the same place. Parents come first.
func (c *container) mounts() error {
	asked, err := c.configMounts()
	if err != nil {
		return err
	}
	own := slices.Concat(c.systemMounts(), c.podMounts(), c.imageMounts())
	own = slices.DeleteFunc(own, func(m specs.Mount) bool { return replaced(m.Destination, asked) })
	c.spec.Mounts = slices.Concat(own, asked)
	mount.Sort(c.spec.Mounts)
	c.protectSys(own)
	return nil
}

// protectSys makes our /sys read-only where it is to be. The sysfs of a network namespace is one for all containers of
// the pod: mounted read-only by the first, it could not be written by a privileged one either. So what is read-only is
// not the file system but a mount on top of it.
func (c *container) protectSys(own []specs.Mount) {
	ours := slices.ContainsFunc(own, func(m specs.Mount) bool { return m.Type == "sysfs" && slices.Contains(m.Options, "rw") })
	if ours && !c.privileged {
		c.spec.Linux.ReadonlyPaths = append(c.spec.Linux.ReadonlyPaths, "/sys")
	}
}

// replaced: a pod that mounts /dev provides all of it.
func replaced(destination string, asked []specs.Mount) bool {
	return slices.ContainsFunc(asked, func(m specs.Mount) bool {
		return m.Destination == destination || m.Destination == "/dev" && strings.HasPrefix(destination, "/dev/")
	})
}

func (c *container) systemMounts() []specs.Mount {
	access := "ro"
	if c.privileged {
		access = "rw"
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if _, gids := IDMappings(c.in.Sandbox); len(gids) == 0 || gids[0].Size > ttyGroup {
		pts = append(pts, fmt.Sprintf("gid=%d", ttyGroup))
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		c.sysMount(),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
}

// sysMount is /sys, which protectSys makes read-only where it is.
func (c *container) sysMount() specs.Mount {
	m := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "rw"}}
	switch {
	case usernsOf(c.in.Sandbox) == nil:
	case hostNetwork(c.in.Sandbox):
		// A sysfs shows a network namespace, and only its owner may mount one. What is mounted below comes along.
		m.Type, m.Source, m.Options = "bind", "/sys", []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"}
		if c.privileged {
			m.Options[len(m.Options)-1] = "rw"
		}
	case c.in.Host.SysReadOnly && !c.privileged:
		// The kernel gives a user namespace no writable sysfs where it sees none.
		m.Options[len(m.Options)-1] = "ro"
	}
	return m
}

// podMounts are the files every container of the pod sees, read-only where the root is.
func (c *container) podMounts() []specs.Mount {
	access := "rw"
	if c.sec.GetReadonlyRootfs() {
		access = "ro"
	}
	shm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: c.in.ShmPath, Options: []string{"rbind", "rprivate", "rw"}}
	switch c.sec.GetNamespaceOptions().GetIpc() {
	case cri.NamespaceMode_NODE:
		shm.Source = "/dev/shm"
	case cri.NamespaceMode_CONTAINER:
		shm.Source = ""
	}
	if shm.Source == "" {
		shm = specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}
	}
	out := []specs.Mount{shm}
	for _, file := range []struct{ destination, source string }{
		{"/etc/hosts", c.in.HostsPath}, {"/etc/hostname", c.in.HostnamePath}, {"/etc/resolv.conf", c.in.ResolvPath},
	} {
		if file.source != "" {
			out = append(out, specs.Mount{Destination: file.destination, Type: "bind", Source: file.source, Options: []string{"rbind", "rprivate", access}})
		}
	}
	return out
}

// imageMounts are the volumes an image declares; writable whatever the root is, which is what they are declared for.
func (c *container) imageMounts() []specs.Mount {
	var out []specs.Mount
	for _, destination := range slices.Sorted(maps.Keys(c.in.Declared)) {
		out = append(out, specs.Mount{
			Destination: destination, Type: "bind", Source: c.in.Declared[destination], Options: []string{"rbind", "rprivate", "rw"},
		})
	}
	return out
}

// DeclaredVolumes returns the container paths of an image's volumes, cleaned and sorted. Left out are those at or below
// a mount of the config, which the user wants to hold the data, and those at places that every container has of its
// own. The caller gives each a directory (ContainerInput.Declared), unless links of the image lead it to TakenPaths.
func DeclaredVolumes(config *cri.ContainerConfig, volumes map[string]struct{}) []string {
	var out []string
	taken := TakenPaths(config)
	for v := range volumes {
		p := path.Join("/", v)
		covers := func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
		if p != "/" && !slices.ContainsFunc(taken, covers) && !strings.ContainsRune(p, 0) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TakenPaths returns the clean container paths of what is mounted whatever the image declares: what a container gets
// from the runtime and from its pod, and the mounts of its config.
func TakenPaths(config *cri.ContainerConfig) []string {
	out := []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
	for _, m := range config.GetMounts() {
		out = append(out, path.Clean(m.GetContainerPath()))
	}
	return out
}

func (c *container) configMounts() ([]specs.Mount, error) {
	var out []specs.Mount
	for i, m := range c.in.Config.GetMounts() {
		field := fmt.Sprintf("mounts[%s]", m.GetContainerPath())
		source := m.GetHostPath()
		if m.GetImage() != nil {
			if source = c.in.Volumes[i]; source == "" {
				return nil, refusal.Unmet(field+".image", "image %q is not mounted", m.GetImage().GetImage())
			}
		}
		options, err := mountOptions(field, m)
		if err != nil {
			return nil, err
		}
		if err := c.propagate(field, source, propagationOption(m)); err != nil {
			return nil, err
		}
		out = append(out, specs.Mount{
			Destination: path.Clean(m.GetContainerPath()), Type: "bind", Source: source, Options: options,
			UIDMappings: idMappings(m.GetUidMappings()), GIDMappings: idMappings(m.GetGidMappings()),
		})
	}
	return out, nil
}

// propagate checks that the source propagates as asked, and lets the root propagate as much as its mounts do.
func (c *container) propagate(field, source, option string) error {
	err := mount.Propagate(c.spec.Linux, c.in.Lookup.Propagation, source, option)
	switch _, unshared := errors.AsType[*mount.NotSharedError](err); {
	case unshared:
		return refusal.Unmet(field+".propagation", "%v", err)
	case err != nil:
		return refusal.Invalid(field+".propagation", "%v", err)
	}
	return nil
}

func propagationOption(m *cri.Mount) string {
	switch m.GetPropagation() {
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return "rslave"
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	}
	return "rprivate"
}

func mountOptions(field string, m *cri.Mount) ([]string, error) {
	options := []string{"rbind", propagationOption(m)}
	switch {
	case m.GetRecursiveReadOnly():
		options = append(options, "rro")
	case m.GetReadonly() || m.GetImage() != nil:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	if len(m.GetUidMappings()) > 0 {
		options = append(options, "idmap")
	}
	extra, err := restrictions(field+".mount_options", m.GetMountOptions())
	return append(options, extra...), err
}

// restrictions returns the options that may be asked for on top, in one order and once each. The opposite of a
// restriction is accepted and gives way to it.
func restrictions(field string, asked []string) ([]string, error) {
	var out []string
	for _, option := range []string{"nodev", "noexec", "nosuid"} {
		opposite := strings.TrimPrefix(option, "no")
		if slices.Contains(asked, option) {
			out = append(out, option)
		} else if slices.Contains(asked, opposite) {
			out = append(out, opposite)
		}
		asked = slices.DeleteFunc(slices.Clone(asked), func(s string) bool { return s == option || s == opposite })
	}
	if len(asked) > 0 {
		return nil, refusal.Invalid(field, "%q is not one of nodev, noexec, nosuid", asked[0])
	}
	return out, nil
}

func validateMount(field string, m *cri.Mount) error {
	switch {
	case !path.IsAbs(m.GetContainerPath()) || strings.ContainsRune(m.GetContainerPath(), 0):
		return refusal.Invalid(field+".container_path", "%q is not an absolute path", m.GetContainerPath())
	case path.Clean(m.GetContainerPath()) == "/":
		return refusal.Invalid(field+".container_path", "a mount can't replace the root file system")
	case m.GetImage() != nil && m.GetHostPath() != "":
		return refusal.Invalid(field+".host_path", "set together with image")
	case m.GetImage() != nil && m.GetImage().GetImage() == "":
		return refusal.Invalid(field+".image.image", "no image named")
	case m.GetImage() != nil && !m.GetReadonly():
		return refusal.Invalid(field+".readonly", "not set: images can't be written to")
	case m.GetImageSubPath() != "" && !filepath.IsLocal(m.GetImageSubPath()):
		return refusal.Invalid(field+".image_sub_path", "%q leaves the image", m.GetImageSubPath())
	case m.GetImage() == nil && m.GetImageSubPath() != "":
		return refusal.Invalid(field+".image_sub_path", "set without image")
	case m.GetImage() == nil && (!path.IsAbs(m.GetHostPath()) || strings.ContainsRune(m.GetHostPath(), 0)):
		return refusal.Invalid(field+".host_path", "%q is not an absolute path", m.GetHostPath())
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return refusal.Invalid(field+".recursive_read_only", "set without readonly")
	case m.GetRecursiveReadOnly() && m.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE:
		return refusal.Invalid(field+".recursive_read_only", "set with propagation %s", m.GetPropagation())
	case (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0):
		return refusal.Invalid(field+".uidMappings", "set without gidMappings, or the other way round")
	}
	if _, ok := cri.MountPropagation_name[int32(m.GetPropagation())]; !ok {
		return refusal.Invalid(field+".propagation", "unknown value %d", m.GetPropagation())
	}
	if _, err := restrictions(field+".mount_options", m.GetMountOptions()); err != nil {
		return err
	}
	for _, id := range slices.Concat(m.GetUidMappings(), m.GetGidMappings()) {
		if id.GetLength() == 0 {
			return refusal.Invalid(field+".uidMappings", "a mapping of no ids")
		}
	}
	return nil
}
