// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const allCapabilities = "ALL"

// defaultCapabilities is what containers get under every runtime of Kubernetes when nothing is said.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilityName normalises a name as users write it: with or without CAP_, in any case.
func capabilityName(field, name string) (string, error) {
	full := strings.ToUpper(name)
	if full == allCapabilities {
		return allCapabilities, nil
	}
	if !strings.HasPrefix(full, "CAP_") {
		full = "CAP_" + full
	}
	if !slices.Contains(sys.CapabilityNames(), full) {
		return "", refusal.Invalid(field, "unknown capability %q", name)
	}
	return full, nil
}

func capabilityNames(field string, names []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, name := range names {
		full, err := capabilityName(field, name)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	return out, nil
}

// askedCapabilities returns the full names of what a config adds, drops and makes ambient. Those of a privileged
// container do not count, and are not looked at.
func askedCapabilities(sc *cri.LinuxContainerSecurityContext) (add, drop, ambient []string, err error) {
	if sc.GetPrivileged() {
		return nil, nil, nil, nil
	}
	const field = "linux.security_context.capabilities."
	want := sc.GetCapabilities()
	if add, err = capabilityNames(field+"add_capabilities", want.GetAddCapabilities()); err != nil {
		return nil, nil, nil, err
	}
	if drop, err = capabilityNames(field+"drop_capabilities", want.GetDropCapabilities()); err != nil {
		return nil, nil, nil, err
	}
	ambient, err = capabilityNames(field+"add_ambient_capabilities", want.GetAddAmbientCapabilities())
	return add, drop, ambient, err
}

// Capabilities works out the sets of a container from what it asks for and the bounding set of this process, in CAP_ names. ALL is settled first, then single names, and a drop beats an add.
// The inheritable set stays empty apart from ambient ones, whatever the comment on add_capabilities says: filled, it
// lets a program with file capabilities gain what its user should not have (CVE-2022-24769).
func Capabilities(sc *cri.LinuxContainerSecurityContext, bounding []string) (*specs.LinuxCapabilities, error) {
	if sc.GetPrivileged() {
		return capabilitySets(bounding, nil), nil
	}
	add, drop, ambient, err := askedCapabilities(sc)
	if err != nil {
		return nil, err
	}
	held := intersect(defaultCapabilities(), bounding)
	if slices.Contains(add, allCapabilities) {
		held = bounding
	}
	if slices.Contains(drop, allCapabilities) {
		held = nil
	}
	if slices.Contains(ambient, allCapabilities) {
		ambient = bounding
	}
	for _, name := range slices.Concat(add, ambient) {
		if name == allCapabilities || slices.Contains(held, name) || slices.Contains(drop, name) {
			continue
		}
		if !slices.Contains(bounding, name) {
			return nil, refusal.Unmet("linux.security_context.capabilities", "%s is not in the bounding set of the runtime itself", name)
		}
		held = append(slices.Clip(held), name)
	}
	held = without(held, drop)
	return capabilitySets(held, intersect(ambient, held)), nil
}

// capabilitySets sorts by the kernel's numbers, so that the order of a request does not show.
func capabilitySets(held, ambient []string) *specs.LinuxCapabilities {
	held, ambient = intersect(sys.CapabilityNames(), held), intersect(sys.CapabilityNames(), ambient)
	return &specs.LinuxCapabilities{
		Bounding: held, Effective: slices.Clone(held), Permitted: slices.Clone(held),
		Inheritable: ambient, Ambient: slices.Clone(ambient),
	}
}

func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// ValidateCapabilities checks what a config says of capabilities, by itself.
func ValidateCapabilities(sc *cri.LinuxContainerSecurityContext) error {
	_, _, _, err := askedCapabilities(sc)
	return err
}
