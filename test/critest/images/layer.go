// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// file is one entry of a layer. A name that ends in a slash is a folder.
type file struct {
	name string
	data string
	mode int64  // 0: 0644, and 0755 for folders
	uid  int    // the group has the same number
	link string // a symbolic link's target
	hard string // a hard link's target in the same layer
}

func (f file) header() *tar.Header {
	h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.uid, Size: int64(len(f.data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch {
	case strings.HasSuffix(f.name, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, max(f.mode, 0o755)
	case f.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
	case f.hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, f.hard
	}
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	return h
}

// layer writes the files as an uncompressed tar with the folders above them. It has no times, so equal files give equal
// layers. Writing to memory can't go wrong; a name that tar can't hold would, and is a mistake in this package.
func layer(files []file) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := map[string]bool{"./": true}
	for _, f := range files {
		for _, dir := range parents(f.name) {
			if !seen[dir] {
				seen[dir] = true
				must(w.WriteHeader(file{name: dir}.header()))
			}
		}
		seen[f.name] = true
		must(w.WriteHeader(f.header()))
		_, err := w.Write([]byte(f.data))
		must(err)
	}
	must(w.Close())
	return buf.Bytes()
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("write layer: %v", err))
	}
}

func parents(name string) []string {
	var dirs []string
	for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "." && dir != "/"; dir = path.Dir(dir) {
		dirs = append([]string{dir + "/"}, dirs...)
	}
	return dirs
}

// tree reads one file, or everything below one folder, of root into entries with the same names.
func tree(root string, names ...string) ([]file, error) {
	var files []file
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(root, name), func(full string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, full)
			if err != nil {
				return err
			}
			f, err := read(full)
			f.name = filepath.ToSlash(rel)
			files = append(files, f)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return files, nil
}

func read(full string) (file, error) {
	info, err := os.Lstat(full)
	if err != nil {
		return file{}, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(full)
		return file{link: target}, err
	}
	data, err := os.ReadFile(full)
	return file{data: string(data), mode: int64(info.Mode().Perm())}, err
}
