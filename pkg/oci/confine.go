// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"slices"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
)

// seccomp sets the system call filter. Not asked for means none, which is what Kubernetes expects (its own default,
// where enabled, arrives as RuntimeDefault). It comes after the capabilities: the default profile depends on them.
func (c *container) seccomp() error {
	p, err := confine.Profile(confine.SeccompField, c.sec.GetSeccomp(), c.sec.GetSeccompProfilePath())
	if err != nil || c.privileged {
		return err
	}
	c.spec.Linux.Seccomp, err = seccompOf(c.in.Host, c.in.Lookup).Filter(p, c.spec)
	return err
}

func seccompOf(host Host, look Lookup) confine.Seccomp {
	return confine.Seccomp{Enabled: host.Seccomp, Root: host.SeccompRoot, ReadFile: look.ReadFile}
}

func appArmorOf(host Host, look Lookup) confine.AppArmor {
	return confine.AppArmor{Enabled: host.AppArmor, Loaded: look.AppArmorLoaded, Default: look.AppArmorDefault}
}

// lsm sets AppArmor and SELinux. A privileged container is confined by neither, unless it names a profile of the node:
// the defaults are for containers that may do less than everything.
func (c *container) lsm() error {
	p, err := confine.Profile(confine.AppArmorField, c.sec.GetApparmor(), c.sec.GetApparmorProfile())
	if err != nil || c.privileged && p.GetProfileType() != cri.SecurityProfile_Localhost {
		return err
	}
	if c.in.Host.SELinux && !c.privileged {
		labels := c.in.Labels.With(c.sec.GetSelinuxOptions())
		c.spec.Process.SelinuxLabel, c.spec.Linux.MountLabel = labels.Process, labels.Mount
	}
	c.spec.Process.ApparmorProfile, err = appArmorOf(c.in.Host, c.in.Lookup).Profile(p)
	return err
}

// paths sets what is masked and read-only. The lists of a security context are taken as they are, empty ones included:
// that is how an unmasked /proc is asked for. Only where there is no security context at all do defaults apply.
func (c *container) paths() error {
	c.spec.Process.NoNewPrivileges = c.sec.GetNoNewPrivs()
	if c.privileged {
		return nil
	}
	c.spec.Linux.MaskedPaths = slices.Clone(c.sec.GetMaskedPaths())
	c.spec.Linux.ReadonlyPaths = slices.Clone(c.sec.GetReadonlyPaths())
	if c.in.Config.GetLinux().GetSecurityContext() == nil {
		c.spec.Linux.MaskedPaths, c.spec.Linux.ReadonlyPaths = defaultMasked(), defaultReadonly()
	}
	return nil
}

func defaultMasked() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
}

func defaultReadonly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
