// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path"
	"strings"
)

// scopePrefix starts the name of every systemd scope of ours: cri-<id>.scope.
const scopePrefix = "cri"

// CgroupsPath returns the spec's cgroupsPath for a container under the pod's parent cgroup. The parent arrives in
// cgroupfs syntax under both drivers. cgroupfs: "/kubepods/pod1/<id>". systemd: "<slice>:cri:<id>", where the slice is
// the parent's last element, or, when the parent is no slice yet, made from all of it: "/kubepods/burstable/pod1"
// is kubepods-burstable-pod1.slice. An empty parent is the root, under systemd system.slice.
func CgroupsPath(parent, id string, systemd bool) string {
	if !systemd {
		return path.Join("/", parent, id)
	}
	return sliceName(parent) + ":" + scopePrefix + ":" + id
}

// sliceName converts a cgroup parent in cgroupfs syntax to the systemd slice it stands for.
func sliceName(parent string) string {
	parent = strings.Trim(path.Clean("/"+parent), "/")
	if parent == "" {
		return "system.slice"
	}
	if last := path.Base(parent); strings.HasSuffix(last, ".slice") {
		return last
	}
	// A dash separates levels in a slice's name, so one inside an element becomes what the kubelet makes of it too.
	return strings.ReplaceAll(strings.ReplaceAll(parent, "-", "_"), "/", "-") + ".slice"
}
