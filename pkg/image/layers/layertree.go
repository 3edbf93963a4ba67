// SPDX-License-Identifier: Apache-2.0

package layers

import (
	"archive/tar"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// pathMax is how long a path may be for Linux, its end mark included (PATH_MAX). Nothing with a longer name can be
	// unpacked, and a name may have a mebibyte in the archive.
	pathMax = 4096
	// namesMax is how many bytes of names and attributes one layer may have: unpacking keeps them in memory until its
	// end. A layer of a million files has a tenth of it.
	namesMax = 512 << 20
	// entryCost is what an entry takes there besides.
	entryCost = 100
)

// layerTree sees the entries of a layer go by.
type layerTree struct {
	said    map[string]bool // directories with an entry of their own
	parents map[string]bool
	names   int // bytes seen
}

func newLayerTree() *layerTree {
	return &layerTree{said: map[string]bool{}, parents: map[string]bool{}}
}

// see is an archive filter that refuses what can't be unpacked, or not with bounded memory, as ErrInvalidArgument.
func (t *layerTree) see(h *tar.Header) (bool, error) {
	if len(h.Name) >= pathMax || len(h.Linkname) >= pathMax {
		return false, fmt.Errorf("layer has a file name of %d bytes, more than a path can have: %w", max(len(h.Name), len(h.Linkname)), errdefs.ErrInvalidArgument)
	}
	t.names += entryCost + len(h.Name) + len(h.Linkname)
	for key, value := range h.PAXRecords {
		t.names += len(key) + len(value)
	}
	if t.names > namesMax {
		return false, fmt.Errorf("layer has more than %d bytes of file names and attributes: %w", namesMax, errdefs.ErrInvalidArgument)
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag == tar.TypeDir {
		t.said[name] = true
	}
	for dir, ok := above(name); ok && !t.parents[dir]; dir, ok = above(dir) {
		t.parents[dir] = true
	}
	return true, nil
}

// above is the directory that a clean relative name is in, if that is not the root.
func above(name string) (string, bool) {
	slash := strings.LastIndexByte(name, '/')
	if slash < 0 {
		return "", false
	}
	return name[:slash], true
}

func (t *layerTree) implied() []string {
	maps.DeleteFunc(t.parents, func(dir string, _ bool) bool { return t.said[dir] })
	return slices.Sorted(maps.Keys(t.parents))
}
