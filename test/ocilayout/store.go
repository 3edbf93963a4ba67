// SPDX-License-Identifier: Apache-2.0

package ocilayout

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Write adds an image to the layout in dir, which is made when missing, under the full name ref
// ("registry.k8s.io/pause:3.9"). Several images become one index, told apart by their platforms. It returns what the
// name stands for, the manifest or the index.
func Write(dir, ref string, images ...Image) (ocispec.Descriptor, error) {
	built, err := build(images)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return WriteBuilt(dir, ref, built...)
}

// WriteBuilt is Write for images that are built already.
func WriteBuilt(dir, ref string, images ...Built) (ocispec.Descriptor, error) {
	root, blobs, err := rootOf(images)
	if err != nil {
		return root, err
	}
	for d, blob := range blobs {
		path := filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return root, err
		}
		if err := os.WriteFile(path, blob, 0o644); err != nil {
			return root, err
		}
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return root, err
	}
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), layout, 0o644); err != nil {
		return root, err
	}
	return root, addToIndex(filepath.Join(dir, ocispec.ImageIndexFile), ref, root)
}

func addToIndex(path, ref string, root ocispec.Descriptor) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if ref != "" {
		root.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	}
	index.Manifests = append(index.Manifests, root)
	if raw, err = json.Marshal(index); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

// Tar writes the layout in dir as an archive.
func Tar(dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return tw.Close()
}

// Push uploads an image to a registry ("http://127.0.0.1:5000") as ref ("e2e/busybox:1.29"). Several images become one
// index. It returns what the name stands for.
func Push(ctx context.Context, registry, ref string, images ...Image) (ocispec.Descriptor, error) {
	built, err := build(images)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return PushBuilt(ctx, registry, ref, built...)
}

// PushBuilt is Push for images that are built already.
func PushBuilt(ctx context.Context, registry, ref string, images ...Built) (ocispec.Descriptor, error) {
	root, blobs, err := rootOf(images)
	if err != nil {
		return root, err
	}
	repo, tag, ok := strings.Cut(ref, ":")
	if !ok {
		return root, fmt.Errorf("push %s: no tag", ref)
	}
	base := strings.TrimSuffix(registry, "/") + "/v2/" + repo
	manifests := map[digest.Digest]bool{root.Digest: true}
	for _, b := range images {
		manifests[b.Manifest.Digest] = true
	}
	for d, blob := range blobs {
		if manifests[d] {
			continue
		}
		if err := pushBlob(ctx, base, d, blob); err != nil {
			return root, fmt.Errorf("push %s: %w", ref, err)
		}
	}
	for _, b := range images {
		if err := pushManifest(ctx, base, b.Manifest.Digest.String(), b.Manifest.MediaType, b.Blobs[b.Manifest.Digest]); err != nil {
			return root, fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return root, pushManifest(ctx, base, tag, root.MediaType, blobs[root.Digest])
}

func pushBlob(ctx context.Context, base string, d digest.Digest, blob []byte) error {
	resp, err := send(ctx, http.MethodPost, base+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	at, err := url.Parse(base)
	if err != nil {
		return err
	}
	if at, err = at.Parse(resp.Header.Get("Location")); err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", d.String())
	at.RawQuery = q.Encode()
	_, err = send(ctx, http.MethodPut, at.String(), "application/octet-stream", blob)
	return err
}

func pushManifest(ctx context.Context, base, name, mediaType string, raw []byte) error {
	_, err := send(ctx, http.MethodPut, base+"/manifests/"+name, mediaType, raw)
	return err
}

func send(ctx context.Context, method, to, mediaType string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode > 299 {
		err = fmt.Errorf("%s %s: %s: %s", method, to, resp.Status, text)
	}
	return resp, err
}

func build(images []Image) ([]Built, error) {
	var built []Built
	for _, i := range images {
		b, err := i.Build()
		if err != nil {
			return nil, err
		}
		built = append(built, b)
	}
	return built, nil
}

func rootOf(images []Built) (ocispec.Descriptor, map[digest.Digest][]byte, error) {
	switch len(images) {
	case 0:
		return ocispec.Descriptor{}, nil, errors.New("no image")
	case 1:
		return images[0].Manifest, images[0].Blobs, nil
	}
	return Index(images...)
}
