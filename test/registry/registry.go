// SPDX-License-Identifier: Apache-2.0

// Package registry runs a real image registry in this process, on loopback, for tests and measurements.
//
// It keeps everything in memory, wants no credentials and is gone when it is closed. It is the upstream registry as a
// library, so that what pulls from it meets the real protocol.
package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the storage named below
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// Registry is a running registry.
type Registry struct {
	Addr string // host:port on loopback
	srv  *http.Server
}

// Start starts an empty registry on a free port of 127.0.0.1.
func Start(ctx context.Context) (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	c := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory":    nil,
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	c.Log.AccessLog.Disabled = true
	c.HTTP.Secret = "one process, no secret"
	logrus.SetLevel(logrus.PanicLevel) // the only way to keep it quiet: its logger is the process's
	r := &Registry{Addr: l.Addr().String(), srv: &http.Server{Handler: handlers.NewApp(ctx, c)}}
	go func() { // ends with Close
		if err := r.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "registry:", err)
		}
	}()
	return r, nil
}

// Close stops the registry.
func (r *Registry) Close() error { return r.srv.Close() }

// WriteHosts makes dir a registry configuration tree (dir/HOST/hosts.toml) in which each host is this registry, and
// nothing but this registry.
func (r *Registry) WriteHosts(dir string, hosts ...string) error {
	for _, h := range hosts {
		if err := os.MkdirAll(filepath.Join(dir, h), 0o755); err != nil {
			return fmt.Errorf("write hosts: %w", err)
		}
		url := "http://" + r.Addr
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
		if err := os.WriteFile(filepath.Join(dir, h, "hosts.toml"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write hosts: %w", err)
		}
	}
	return nil
}

// Image is what Push sends: uncompressed layers, lowest first.
type Image struct {
	Layers [][]byte
	Config ocispec.ImageConfig
	Gzip   bool // compress the layers
}

// Push puts an image under host/repository:tag names, of which the host is left out, and returns its manifest's digest.
func (r *Registry) Push(ctx context.Context, image Image, names ...string) (digest.Digest, error) {
	var last digest.Digest
	for _, name := range names {
		_, rest, _ := strings.Cut(name, "/")
		repo, tag, _ := strings.Cut(rest, ":")
		d, err := r.push(ctx, image, repo, tag)
		if err != nil {
			return "", fmt.Errorf("push %s: %w", name, err)
		}
		last = d
	}
	return last, nil
}

func (r *Registry) push(ctx context.Context, image Image, repo, tag string) (digest.Digest, error) {
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   image.Config,
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range image.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		media := ocispec.MediaTypeImageLayer
		if image.Gzip {
			l, media = compressed(l), ocispec.MediaTypeImageLayerGzip
		}
		desc, err := r.blob(ctx, repo, media, l)
		if err != nil {
			return "", err
		}
		manifest.Layers = append(manifest.Layers, desc)
	}
	data, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	if manifest.Config, err = r.blob(ctx, repo, ocispec.MediaTypeImageConfig, data); err != nil {
		return "", err
	}
	if data, err = json.Marshal(manifest); err != nil {
		return "", err
	}
	return digest.FromBytes(data), r.send(ctx, http.MethodPut, r.url(repo, "manifests/"+tag), manifest.MediaType, data)
}

func compressed(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(data) // to memory
	_ = w.Close()
	return buf.Bytes()
}

func (r *Registry) url(repo, rest string) string {
	return "http://" + r.Addr + "/v2/" + repo + "/" + rest
}

func (r *Registry) blob(ctx context.Context, repo, media string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(data), Size: int64(len(data))}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url(repo, "blobs/uploads/"), http.NoBody)
	if err != nil {
		return desc, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return desc, err
	}
	resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		return desc, fmt.Errorf("begin upload: %s: %w", resp.Status, err)
	}
	q := at.Query()
	q.Set("digest", desc.Digest.String())
	at.RawQuery = q.Encode()
	return desc, r.send(ctx, http.MethodPut, at.String(), "application/octet-stream", data)
}

func (r *Registry) send(ctx context.Context, method, url, media string, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", media)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return nil
}
