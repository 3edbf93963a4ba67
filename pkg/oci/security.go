// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const localhostPrefix = "localhost/"

// profile reads a security profile from its message or, where that is not set, from the deprecated string before it.
// nil means that nothing was asked for.
func profile(field string, p *cri.SecurityProfile, deprecated string) (*cri.SecurityProfile, error) {
	if p == nil {
		return deprecatedProfile(field, deprecated)
	}
	switch p.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault, cri.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			return nil, invalid(field+".localhost_ref", "set for profile type %s", p.GetProfileType())
		}
	case cri.SecurityProfile_Localhost:
		if p.GetLocalhostRef() == "" || strings.ContainsRune(p.GetLocalhostRef(), 0) {
			return nil, invalid(field+".localhost_ref", "no profile named")
		}
	default:
		return nil, invalid(field+".profile_type", "unknown value %d", p.GetProfileType())
	}
	return p, nil
}

func deprecatedProfile(field, name string) (*cri.SecurityProfile, error) {
	switch name {
	case "":
		return nil, nil
	case "runtime/default", "docker/default":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, nil
	case "unconfined":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	}
	ref, ok := strings.CutPrefix(name, localhostPrefix)
	if !ok || ref == "" || strings.ContainsRune(ref, 0) {
		return nil, invalid(field, "unknown profile %q", name)
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}, nil
}

// lsm sets AppArmor and SELinux. A privileged container is confined by neither, unless it names a profile of the node:
// the defaults are for containers that may do less than everything.
func (c *container) lsm() error {
	p, err := profile(appArmorField, c.sec.GetApparmor(), c.sec.GetApparmorProfile())
	if err != nil || c.privileged && p.GetProfileType() != cri.SecurityProfile_Localhost {
		return err
	}
	if c.in.Host.SELinux && !c.privileged {
		labels := c.in.Labels.with(c.sec.GetSelinuxOptions())
		c.spec.Process.SelinuxLabel, c.spec.Linux.MountLabel = labels.Process, labels.Mount
	}
	c.spec.Process.ApparmorProfile, err = appArmor(p, c.in.Host, c.in.Lookup)
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
