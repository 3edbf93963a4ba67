// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// devices grants device nodes. The device cgroup starts from "none" (the runtime adds the harmless ones: null, zero, full,
// random, urandom, tty, the console), a privileged container from "all", with the nodes of the host's /dev.
func (c *container) devices() error {
	c.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: c.privileged, Access: "rwm"}}
	if c.privileged {
		all, err := c.findDevices("linux.security_context.privileged", "/dev")
		if err != nil {
			return err
		}
		for _, d := range all {
			c.addDevice(d, d.Path)
		}
	}
	for _, d := range c.in.Config.GetDevices() {
		if err := c.configDevice(d); err != nil {
			return err
		}
	}
	return nil
}

// configDevice grants a device, or all below a directory of devices.
func (c *container) configDevice(d *cri.Device) error {
	field := deviceField(d)
	found, err := c.findDevices(field, d.GetHostPath())
	if err != nil {
		return err
	}
	access := d.GetPermissions()
	if access == "" {
		access = "rwm"
	}
	for _, node := range found {
		below := strings.TrimPrefix(node.Path, path.Clean(d.GetHostPath()))
		c.addDevice(node, path.Join(devicePath(d), below))
		if !c.privileged {
			c.spec.Linux.Resources.Devices = append(c.spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor, Access: access,
			})
		}
	}
	return nil
}

func deviceField(d *cri.Device) string { return fmt.Sprintf("devices[%s]", devicePath(d)) }

// devicePath is where a device is in the container: where it is on the host, unless something else is said.
func devicePath(d *cri.Device) string {
	if d.GetContainerPath() == "" {
		return d.GetHostPath()
	}
	return d.GetContainerPath()
}

func validateDevice(field string, d *cri.Device) error {
	for name, p := range map[string]string{"container_path": devicePath(d), "host_path": d.GetHostPath()} {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return refusal.Invalid(field+"."+name, "%q is not an absolute path", p)
		}
	}
	if strings.Trim(d.GetPermissions(), "rwm") != "" {
		return refusal.Invalid(field+".permissions", "%q is not of r, w and m", d.GetPermissions())
	}
	return nil
}

func (c *container) findDevices(field, p string) ([]sys.Device, error) {
	if c.in.Lookup.Devices == nil {
		return nil, refusal.Unmet(field, "no way to look at %s", p)
	}
	found, err := c.in.Lookup.Devices(p)
	if err != nil {
		return nil, refusal.Invalid(field, "%v", err)
	}
	return found, nil
}

// addDevice makes the node; one at the same place is replaced.
func (c *container) addDevice(d sys.Device, at string) {
	c.nodes[at] = d.Path
	node := specs.LinuxDevice{Path: at, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &d.Mode, UID: &d.UID, GID: &d.GID}
	for i := range c.spec.Linux.Devices {
		if c.spec.Linux.Devices[i].Path == at {
			c.spec.Linux.Devices[i] = node
			return
		}
	}
	c.spec.Linux.Devices = append(c.spec.Linux.Devices, node)
}

// cdi injects the devices named by CDI_devices and, in the older way, by annotations. It comes last, because an injected
// device may edit any part of the spec.
func (c *container) cdi() error {
	var names []string
	seen := map[string]bool{}
	for _, d := range c.in.Config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	_, annotated, err := cdi.ParseAnnotations(c.in.Config.GetAnnotations())
	if err != nil {
		return refusal.Invalid("annotations", "%v", err)
	}
	var wanted []string
	for _, name := range append(names, annotated...) {
		if !seen[name] {
			seen[name] = true
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if c.in.Lookup.CDI == nil {
		return refusal.Unmet("CDI_devices", "no registry of CDI devices")
	}
	if err := c.in.Lookup.CDI(c.spec, wanted); err != nil {
		return refusal.Invalid("CDI_devices", "%v", err)
	}
	mount.Sort(c.spec.Mounts)
	return nil
}

// bindNodes is for user namespaces, in which device nodes cannot be made: a runtime binds the host's node of the same
// path there. Nodes that are called otherwise in the container are bound here from where the host has them.
func (c *container) bindNodes() error {
	if usernsOf(c.in.Sandbox) == nil {
		return nil
	}
	var same []specs.LinuxDevice
	for _, d := range c.spec.Linux.Devices {
		source, err := c.hostNode(d)
		if err != nil {
			return err
		}
		if source == d.Path {
			same = append(same, d)
			continue
		}
		c.spec.Mounts = append(c.spec.Mounts, specs.Mount{
			Destination: d.Path, Type: "bind", Source: source, Options: []string{"bind", "rprivate", "nosuid", "noexec", "rw"},
		})
	}
	c.spec.Linux.Devices = same
	mount.Sort(c.spec.Mounts)
	return nil
}

// hostNode returns where the host has a device of the spec. One that CDI injected is looked for by its numbers.
func (c *container) hostNode(d specs.LinuxDevice) (string, error) {
	if at, known := c.nodes[d.Path]; known {
		return at, nil
	}
	if d.Type == "p" {
		return d.Path, nil // named pipes have no numbers
	}
	field := fmt.Sprintf("CDI_devices: node %s", d.Path)
	is := func(n sys.Device) bool {
		return (n.Type == "b") == (d.Type == "b") && n.Major == d.Major && n.Minor == d.Minor
	}
	if c.in.Lookup.Devices == nil {
		return "", refusal.Unmet(field, "no way to look for it")
	}
	if here, err := c.in.Lookup.Devices(d.Path); err == nil && len(here) == 1 && is(here[0]) {
		return d.Path, nil
	}
	all, err := c.findDevices(field, "/dev")
	if err != nil {
		return "", err
	}
	if at := slices.IndexFunc(all, is); at >= 0 {
		return all[at].Path, nil
	}
	return "", refusal.Unmet(field, "the host has no node %s %d:%d below /dev, and none can be made in a user namespace", d.Type, d.Major, d.Minor)
}
