// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Dirs returns the host directories of an OCI cgroupsPath: one on a
// unified hierarchy, one per mounted controller on cgroup v1. Both forms of the
// path are understood, "/parent/name" and systemd's "slice:prefix:name".
// Directories are named whether they exist or not.
func Dirs(cgroupsPath string) []string {
	if cgroupsPath == "" {
		return nil
	}
	relative := Path(cgroupsPath)
	var dirs []string
	for _, root := range roots() {
		dirs = append(dirs, filepath.Join(root, relative))
	}
	return dirs
}

// Path turns an OCI cgroupsPath into the path below a hierarchy, with a leading slash.
func Path(cgroupsPath string) string {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return filepath.Join("/", cgroupsPath)
	}
	slice, prefix, name := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	unit := name
	if !strings.HasSuffix(name, ".slice") {
		unit = prefix + "-" + name + ".scope"
	}
	return filepath.Join("/", expandSlice(slice), unit)
}

// expandSlice spells out where systemd puts a slice: a-b.slice is below
// a.slice (systemd.slice(5)).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" || name == "" {
		return ""
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(name, "-") {
		path = filepath.Join(path, prefix+part+".slice")
		prefix += part + "-"
	}
	return path
}

// IsOf tells whether an OCI cgroupsPath can be the cgroup of the container
// id alone: absolute, or systemd's form of a scope, and with the id in its last
// element. Processes in any other cgroup may not be the container's.
func IsOf(cgroupsPath, id string) bool {
	if id == "" {
		return false
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) == 3 {
		return strings.Contains(parts[2], id) && !strings.HasSuffix(parts[2], ".slice") && !strings.Contains(cgroupsPath, "/")
	}
	return filepath.IsAbs(cgroupsPath) && filepath.Clean(cgroupsPath) == cgroupsPath && strings.Contains(filepath.Base(cgroupsPath), id)
}

// roots lists the hierarchies that are mounted below /sys/fs/cgroup.
func roots() []string {
	if unified, err := sys.CgroupUnified(); err == nil && unified {
		return []string{sys.CgroupRoot}
	}
	entries, err := os.ReadDir(sys.CgroupRoot)
	if err != nil {
		return nil
	}
	var roots []string
	var st unix.Statfs_t
	for _, e := range entries {
		path := filepath.Join(sys.CgroupRoot, e.Name())
		if e.Type()&fs.ModeSymlink != 0 || unix.Statfs(path, &st) != nil {
			continue
		}
		if st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC {
			roots = append(roots, path)
		}
	}
	return roots
}

// ParentPath turns a pod's cgroup parent, a path or with systemd the name of a slice, into the path below a
// hierarchy, with a leading slash.
func ParentPath(parent string) string {
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		return filepath.Join("/", expandSlice(parent))
	}
	return filepath.Join("/", parent)
}
