// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// perPod are the folders with an entry for each pod, container or attachment.
var perPod = []string{
	"root/records/pods", "root/records/containers", "root/pods", "root/containers", "root/cni/attachments", "root/cni/results",
	"state/bundles", "state/locks/network", "state/locks/runtime",
}

// files are the node's own files but for logs and what is in layers; blobs, snapshots and what is being pulled are among
// them. Of runtimes other than ours only those that are named after an object count: what else they keep is their business.
func (n *Node) files() ([]Item, error) {
	var out []Item
	for _, top := range []string{"root", "state"} {
		err := filepath.WalkDir(filepath.Join(n.Dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it went in between
			}
			rel, err := filepath.Rel(n.Dir, path)
			if err != nil {
				return err
			}
			i, down := n.file(rel, d)
			if i.Name != "" {
				out = append(out, i)
			}
			if !down && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// file is the item of one file, if it is one, and whether to look below it.
func (n *Node) file(rel string, d fs.DirEntry) (i Item, down bool) {
	hasID := longID.MatchString(rel) || d.Type()&fs.ModeNamedPipe != 0
	switch {
	case n.Kind != CRIShim && d.IsDir() && slices.Contains([]string{"images", "logs"}, d.Name()):
		return Item{}, false
	case n.Kind != CRIShim && hasID:
		return Item{Name: rel}, false
	case n.Kind != CRIShim:
		return Item{}, true
	case strings.HasPrefix(rel, "root/images/layers/snapshots/"):
		return Item{Name: rel, Span: Kept}, false // what is in a layer is the image's business
	case strings.HasPrefix(rel, "root/images/"):
		if d.IsDir() && !longID.MatchString(d.Name()) && !strings.Contains(rel, "ingest/") {
			return Item{}, true
		}
		return Item{Name: rel, Span: Kept}, true
	case strings.HasSuffix(rel, ".bad"), strings.Contains(rel, "last_reserved_ip"):
		return Item{Name: strings.TrimSuffix(rel, ".0"), Span: Kept}, true // for people to look at; the allocator's place to go on
	case strings.Contains(rel, "/.cache/seccomp/"):
		return Item{Name: rel, Span: Kept}, true // crun's, one of each filter that it has compiled
	case hasID || slices.Contains(perPod, filepath.Dir(rel)):
		return Item{Name: rel}, !d.IsDir() || d.Name() != "rootfs"
	case d.IsDir():
		return Item{}, true
	}
	return Item{Name: rel, Span: Kept}, true
}

// conventional are folders that runtimes and plugins use whatever their configuration says.
var conventional = []string{
	"/run/containerd", "/run/crio", "/run/nri", "/run/runc", "/run/cri-shim", "/run/cri-monitor", "/run/crun", "/var/lib/cni", "/var/lib/cri-shim",
	"/opt/cni", "/opt/nri", "/etc/cni",
}

// sharedFiles are the node's in folders that it shares with others; alone, all of them, and what is at the top of /run and
// /opt.
func (n *Node) sharedFiles() ([]Item, error) {
	known := n.ids()
	var out []Item
	add := func(path string) {
		of := slices.ContainsFunc(longID.FindAllString(path, -1), func(id string) bool { return known[id] })
		if of {
			out = append(out, Item{Name: path})
		} else if n.Alone || n.Network.Bridge != "" && strings.Contains(path, n.Network.Bridge) {
			out = append(out, Item{Name: path, Span: OfNode})
		}
	}
	for _, top := range conventional {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				add(path)
			}
			return nil //nolint:nilerr // not there
		})
		if err != nil {
			return nil, err
		}
	}
	if !n.Alone {
		return out, nil
	}
	for _, top := range []string{"/run", "/opt"} {
		entries, err := os.ReadDir(top)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			out = append(out, Item{Name: filepath.Join(top, e.Name()), Span: OfNode})
		}
	}
	return out, nil
}

// temporaryFiles are what the node's programs have made where temporary files go, which is a folder of the node's own.
func (n *Node) temporaryFiles() ([]Item, error) {
	entries, err := os.ReadDir(filepath.Join(n.Dir, "tmp"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the node was taken down
	}
	var out []Item
	for _, e := range entries {
		out = append(out, Item{Name: e.Name()})
	}
	return out, err
}

// leases keep content of images from being collected. They are read from a copy of the image store's metadata: the
// daemon has it locked.
func (n *Node) leases() ([]Item, error) {
	data, err := os.ReadFile(filepath.Join(n.Dir, "root/images/metadata.db"))
	if err != nil {
		return nil, nil //nolint:nilerr // no image was ever pulled, or the runtime is another
	}
	path := filepath.Join(n.Dir, "metadata.copy")
	defer os.Remove(path)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return []Item{{Name: "unreadable: " + err.Error(), Span: Kept}}, nil
	}
	defer db.Close()
	var out []Item
	return out, db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, name := range []string{"k8s.io", "leases"} {
			if b != nil {
				b = b.Bucket([]byte(name))
			}
		}
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error {
			out = append(out, Item{Name: string(k), Span: Kept})
			return nil
		})
	})
}
