// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
)

// Layout derives every path the daemon uses from two directories and an id,
// so that a teardown needs nothing but the id.
type Layout struct {
	Root  string // persistent, e.g. /var/lib/cri-shim
	State string // gone after a reboot, e.g. /run/cri-shim
}

// NetNSDir is where network namespaces are pinned; other tools (ip netns)
// look there too.
const NetNSDir = "/var/run/netns"

const netNSPrefix = "cri-"

// Records is the directory of the record files.
func (l Layout) Records() string { return filepath.Join(l.Root, "records") }

// Images is the directory of the image store.
func (l Layout) Images() string { return filepath.Join(l.Root, "images") }

// Pods is the directory that holds one directory of files per pod.
func (l Layout) Pods() string { return filepath.Join(l.Root, "pods") }

// PodFiles holds hostname, hosts and resolv.conf of one pod.
func (l Layout) PodFiles(id PodID) string { return filepath.Join(l.Pods(), string(id)) }

// PodShm is the mount point of the pod's /dev/shm.
func (l Layout) PodShm(id PodID) string { return filepath.Join(l.PodFiles(id), "shm") }

// Containers is the directory that holds one directory per container.
func (l Layout) Containers() string { return filepath.Join(l.Root, "containers") }

// ContainerFiles holds the root filesystem and image volumes of one container.
func (l Layout) ContainerFiles(id ContainerID) string {
	return filepath.Join(l.Containers(), string(id))
}

// RootFS is the mount point of a container's root filesystem.
func (l Layout) RootFS(id ContainerID) string { return filepath.Join(l.ContainerFiles(id), "rootfs") }

// Bundles is the directory of the OCI bundles, of pods and containers alike.
func (l Layout) Bundles() string { return filepath.Join(l.State, "bundles") }

// Bundle is the OCI bundle directory of a pause or workload container.
func (l Layout) Bundle(id string) string { return filepath.Join(l.Bundles(), id) }

// RuntimeRoot is the OCI runtime's own state directory for one handler.
func (l Layout) RuntimeRoot(handler string) string { return filepath.Join(l.State, "runtime", handler) }

// PauseRootFS is the read-only root all pause containers share.
func (l Layout) PauseRootFS() string { return filepath.Join(l.State, "pause") }

// Monitor is the monitor's own directory: pipes, exit log, its records.
func (l Layout) Monitor() string { return filepath.Join(l.State, "monitor") }

// MonitorSocket is where the monitor listens.
func (l Layout) MonitorSocket() string { return filepath.Join(l.State, "monitor.sock") }

// UserNamespaces is the directory that the pods' user namespaces are pinned in.
func (l Layout) UserNamespaces() string { return filepath.Join(l.State, "userns") }

// UserNS is where the user namespace of a pod that has one is pinned.
func (l Layout) UserNS(id PodID) string { return filepath.Join(l.UserNamespaces(), string(id)) }

// CNICache holds libcni's record of attachments.
func (l Layout) CNICache() string { return filepath.Join(l.Root, "cni") }

// CNILocks has the locks of attachments that plugins work on.
func (l Layout) CNILocks() string { return filepath.Join(l.State, "locks", "network") }

// RuntimeLocks has the locks of containers that a command of a runtime works on.
func (l Layout) RuntimeLocks() string { return filepath.Join(l.State, "locks", "runtime") }

// NetNSPrefix starts the paths of all network namespaces of the daemon that
// works on this root, and of no other: two daemons on one machine must not take
// each other's pods for orphans, and a sweep removes what it finds. Eight digits:
// with four, one pair of roots in 65,536 would share them.
func (l Layout) NetNSPrefix() string {
	sum := sha256.Sum256([]byte(filepath.Clean(l.Root)))
	return filepath.Join(NetNSDir, netNSPrefix+hex.EncodeToString(sum[:4])+"-")
}

// NetNS is the path of a pod's pinned network namespace. 20 digits of the id
// are enough to be unique and keep the name readable in ip(8).
func (l Layout) NetNS(id PodID) string {
	return l.NetNSPrefix() + string(id)[:min(20, len(id))]
}
