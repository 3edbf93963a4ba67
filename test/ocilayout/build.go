// SPDX-License-Identifier: Apache-2.0

// Package ocilayout builds OCI images from files in memory or on disk, writes them as image layouts and pushes them to
// registries. Tests, the demo images and the images for critest are made with it. The same input always gives the same
// digests. It doesn't check that an image makes sense: tests need bad ones. Nothing of it is part of the daemon.
package ocilayout

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression of an image's layers.
type Compression string

// The zero Compression is Gzip.
const (
	Gzip Compression = ""
	Zstd Compression = "zstd"
	None Compression = "none"
)

// File is one entry of a layer. Path and link targets go into the archive as they are, without a check. An entry is a
// directory, a symlink or a hard link if that field is set, else a regular file. Parent directories are not implied.
type File struct {
	Path     string
	Mode     fs.FileMode // permissions, with fs.ModeSetuid and so on; 0 = 0755 for directories, 0644 for files
	UID, GID int
	Content  []byte
	Source   string // file to take content, and mode if Mode is 0, from
	Symlink  string // target
	Hardlink string // path of an earlier entry
	Dir      bool
}

// Layer is a list of entries, in archive order. A whiteout is a file named .wh.NAME.
type Layer []File

// Image is what to build.
type Image struct {
	Layers      []Layer
	Config      ocispec.ImageConfig
	Compression Compression
	Platform    *ocispec.Platform // nil = linux on this machine's architecture
	Annotations map[string]string // of the manifest
}

// Built is an image as blobs. Tests may change it before it is written or pushed.
type Built struct {
	Manifest ocispec.Descriptor // with platform
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Blobs    map[digest.Digest][]byte // Manifest, Config and Layers
}

// ID is the image id that CRI shows.
func (b Built) ID() string { return b.Config.Digest.String() }

// Build makes the blobs of an image.
func (i Image) Build() (Built, error) {
	b := Built{Blobs: map[digest.Digest][]byte{}}
	p := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if i.Platform != nil {
		p = *i.Platform
	}
	config := ocispec.Image{Platform: p, Config: i.Config, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for n, l := range i.Layers {
		raw, err := l.tar()
		if err != nil {
			return b, fmt.Errorf("build layer %d: %w", n, err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(raw))
		blob, mediaType, err := i.Compression.compress(raw)
		if err != nil {
			return b, fmt.Errorf("compress layer %d: %w", n, err)
		}
		b.Layers = append(b.Layers, b.add(mediaType, blob))
	}
	var err error
	if b.Config, err = b.addJSON(ocispec.MediaTypeImageConfig, config); err != nil {
		return b, err
	}
	if b.Layers == nil {
		b.Layers = []ocispec.Descriptor{}
	}
	b.Manifest, err = b.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: b.Config, Layers: b.Layers, Annotations: i.Annotations,
	})
	b.Manifest.Platform = &p
	return b, err
}

// Index adds an index of the manifests of several built images and returns it with all their blobs.
func Index(images ...Built) (ocispec.Descriptor, map[digest.Digest][]byte, error) {
	all := Built{Blobs: map[digest.Digest][]byte{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, b := range images {
		maps.Copy(all.Blobs, b.Blobs)
		index.Manifests = append(index.Manifests, b.Manifest)
	}
	desc, err := all.addJSON(ocispec.MediaTypeImageIndex, index)
	return desc, all.Blobs, err
}

func (b *Built) add(mediaType string, blob []byte) ocispec.Descriptor {
	d := digest.FromBytes(blob)
	b.Blobs[d] = blob
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(blob))}
}

func (b *Built) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return b.add(mediaType, raw), nil
}

func (l Layer) tar() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range l {
		if err := f.write(w); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (f File) write(w *tar.Writer) error {
	h := &tar.Header{Name: f.Path, Uid: f.UID, Gid: f.GID, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	body, mode := f.Content, f.Mode
	if f.Source != "" {
		fi, err := os.Stat(f.Source)
		if err != nil {
			return err
		}
		if body, err = os.ReadFile(f.Source); err != nil {
			return err
		}
		if mode == 0 {
			mode = fi.Mode()
		}
	}
	switch {
	case f.Dir:
		h.Typeflag = tar.TypeDir
		if mode == 0 {
			mode = 0o755
		}
	case f.Symlink != "":
		h.Typeflag, h.Linkname, mode = tar.TypeSymlink, f.Symlink, 0o777
	case f.Hardlink != "":
		h.Typeflag, h.Linkname = tar.TypeLink, f.Hardlink
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		if mode == 0 {
			mode = 0o644
		}
	}
	h.Mode = unixMode(mode)
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := w.Write(body)
	return err
}

func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, is := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&is != 0 {
			mode |= bit
		}
	}
	return mode
}

func (c Compression) compress(raw []byte) ([]byte, string, error) {
	var (
		buf       bytes.Buffer
		w         io.WriteCloser
		mediaType string
		err       error
	)
	switch c {
	case None:
		return raw, ocispec.MediaTypeImageLayer, nil
	case Gzip:
		w, mediaType = gzip.NewWriter(&buf), ocispec.MediaTypeImageLayerGzip
	case Zstd:
		mediaType = ocispec.MediaTypeImageLayerZstd
		if w, err = zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1)); err != nil {
			return nil, "", err
		}
	default:
		return nil, "", fmt.Errorf("unknown compression %q", c)
	}
	if _, err := w.Write(raw); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), mediaType, nil
}
