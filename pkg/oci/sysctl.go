// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const (
	sysctlPortStart = "net.ipv4.ip_unprivileged_port_start"
	sysctlPingRange = "net.ipv4.ping_group_range"
)

// validateSysctls refuses sysctls that are not bound to a namespace which the pod has of its own: those would change
// the node.
func validateSysctls(sysctls map[string]string, o *cri.NamespaceOption) error {
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		if err := validateSysctl(key, sysctls[key], o); err != nil {
			return err
		}
	}
	return nil
}

func validateSysctl(key, value string, o *cri.NamespaceOption) error {
	field := fmt.Sprintf("linux.sysctls[%s]", key)
	name := dotted(key)
	if slices.ContainsFunc(strings.Split(name, "."), func(s string) bool { return s == "" || s == "/" || s == "//" }) {
		return refusal.Invalid(field, "no name of a sysctl")
	}
	if strings.ContainsAny(key, "\x00\n") || strings.Contains(key, "..") {
		return refusal.Invalid(field, "no name of a sysctl")
	}
	// What else may be in a value is the kernel's to say: a YAML block ends with a line feed, which it takes.
	if strings.ContainsRune(value, 0) {
		return refusal.Invalid(field, "%q holds a NUL", value)
	}
	var kind string
	var shared bool
	switch {
	case ipcSysctl(name):
		kind, shared = "IPC", o.GetIpc() == cri.NamespaceMode_NODE
	case strings.HasPrefix(name, "net."):
		kind, shared = "network", o.GetNetwork() == cri.NamespaceMode_NODE
	case name == "kernel.domainname":
		kind, shared = "UTS", o.GetNetwork() == cri.NamespaceMode_NODE
	default:
		return refusal.Invalid(field, "not bound to a namespace of the pod")
	}
	if shared {
		return refusal.Invalid(field, "the pod is in the node's %s namespace", kind)
	}
	return nil
}

// dotted turns the slash form of a name into the dot form, as sysctl(8) does: the first separator tells which it is.
// In the slash form a dot belongs to an element (the interface eth0.1) and becomes a slash.
func dotted(key string) string {
	if at := strings.IndexAny(key, "./"); at >= 0 && key[at] == '/' {
		return strings.NewReplacer("/", ".", ".", "/").Replace(key)
	}
	return key
}

func ipcSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	return strings.HasPrefix(name, "fs.mqueue.")
}

// sysctls adds, for pods with a network of their own, what spares users two capabilities: low ports and ping sockets
// are open to all. The pod's own values win.
func sysctls(config *cri.PodSandboxConfig) map[string]string {
	out := map[string]string{}
	if !hostNetwork(config) {
		out[sysctlPortStart] = "0"
		out[sysctlPingRange] = fmt.Sprintf("0 %d", pingGroupMax(config))
	}
	for key, value := range config.GetLinux().GetSysctls() {
		out[dotted(key)] = value
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// pingGroupMax: the kernel takes only groups that the namespace maps.
func pingGroupMax(config *cri.PodSandboxConfig) int64 {
	most := int64(math.MaxInt32)
	if _, gids := IDMappings(config); len(gids) > 0 {
		most = min(most, int64(gids[0].Size)-1)
	}
	return most
}
