// SPDX-License-Identifier: Apache-2.0

// Package images makes the container images that upstream critest and most of Kubernetes' e2e suite name, with the contents its specs look for, from
// parts at hand: a busybox built from Debian's source package, nginx and Apache from Debian's packages, our own pause
// and a few small files. Nothing is taken from a container registry.
//
// What was fetched and built is kept in a cache folder and made once; the images are put together anew each time. Every
// tar and every config is written without times or names of this machine, so equal parts give equal digests, and
// test-image-digest, which critest names by digest, is made of constants only.
package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-shim/cri-shim/test/ocilayout"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options tells where things are.
type Options struct {
	Cache string // absolute path, kept between runs
	Pause string // our pause program for this architecture

	// Programs is a folder with programs of Kubernetes, of which each that is there becomes an image; "": none.
	Programs string
	// Certificate is the path, less .crt and .key, of what agnhost serves with; "": nothing.
	Certificate string
	Say         func(format string, args ...any)
}

// Image is one image under all its names.
type Image struct {
	Names []string // registry host, repository and tag
	ocilayout.Image
}

// Push builds the image and pushes it to the registry at url under each of its names, their hosts left out. It returns
// the manifest's digest.
func (i Image) Push(ctx context.Context, url string) (digest.Digest, error) {
	built, err := i.Build()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", i.Names[0], err)
	}
	for _, name := range i.Names {
		_, ref, _ := strings.Cut(name, "/")
		if _, err := ocilayout.PushBuilt(ctx, url, ref, built); err != nil {
			return "", err
		}
	}
	return built.Manifest.Digest, nil
}

// Registries are the hosts that the images' names begin with.
var Registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

const (
	e2e     = "registry.k8s.io/e2e-test-images/"
	staging = "gcr.io/k8s-staging-cri-tools/"

	// Busybox is the image of pods that need a shell.
	Busybox = e2e + "busybox:1.29-2"
	// Agnhost is the image of servers and probes.
	Agnhost = e2e + "agnhost:2.66.1"
	// CoreDNS is the image of a cluster's names.
	CoreDNS = "registry.k8s.io/coredns/coredns:v1.14.3"
	// Nginx is the image of a web server.
	Nginx = e2e + "nginx:1.14-2"

	// ByDigest is the image that critest names by digest; a critest that shall pass has the digest of ours.
	ByDigest = staging + "test-image-digest:latest"
)

// Fetch gets and builds the parts that the cache does not hold yet. It is the only step that may need the network.
func Fetch(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return fmt.Errorf("make image cache: %w", err)
	}
	parts := map[string]func(context.Context, Options, string) error{"busybox": buildBusybox, "servers": fetchServers, "nnp": buildNNP}
	if o.Programs != "" {
		parts["tools"] = fetchTools
	}
	for name, step := range parts {
		part := filepath.Join(o.Cache, name)
		if _, err := os.Stat(part); err == nil {
			continue
		}
		if err := step(ctx, o, part); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
	}
	return nil
}

// Build makes every image from the parts in the cache.
func Build(o Options) ([]Image, error) {
	busybox, err := busyboxLayer(filepath.Join(o.Cache, "busybox"))
	if err != nil {
		return nil, fmt.Errorf("build busybox image: %w", err)
	}
	b := builder{busybox: busybox}
	b.busyboxImages()
	b.smallImages()
	if err := b.servers(filepath.Join(o.Cache, "servers")); err != nil {
		return nil, fmt.Errorf("build server images: %w", err)
	}
	if err := b.programs(o); err != nil {
		return nil, fmt.Errorf("build images of programs: %w", err)
	}
	return b.images, nil
}

type builder struct {
	busybox ocilayout.Layer
	images  []Image
}

func (b *builder) add(config ocispec.ImageConfig, layers []ocilayout.Layer, names ...string) {
	config.Env = append(config.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	b.images = append(b.images, Image{names, ocilayout.Image{Layers: layers, Config: config, Compression: ocilayout.None}})
}

// on adds an image that is busybox and one more layer of files.
func (b *builder) on(config ocispec.ImageConfig, files []ocilayout.File, names ...string) {
	b.add(config, []ocilayout.Layer{b.busybox, files}, names...)
}

var shell = ocispec.ImageConfig{Cmd: []string{"sh"}}

func user(name string) ocispec.ImageConfig {
	c := shell
	c.User = name
	return c
}

func (b *builder) busyboxImages() {
	b.add(shell, []ocilayout.Layer{b.busybox}, Busybox, e2e+"busybox:1.37.0-2")
	b.add(user("1234"), []ocilayout.Layer{b.busybox}, e2e+"nonroot:1.5")
	for name, who := range map[string]string{
		"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004",
	} {
		b.on(user(who), []ocilayout.File{text("user", who)}, staging+"test-image-user-"+name+":latest")
	}
	b.on(user("1000"), []ocilayout.File{
		text("etc/passwd", passwd+"default-user:x:1000:1000:default user:/home/default-user:/bin/sh\n"),
		text("etc/group", group+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
		{Path: "home/default-user", Dir: true, UID: 1000, GID: 1000},
	}, staging+"test-image-predefined-group:latest")
	for _, tag := range []string{"test", "all"} {
		b.on(shell, []ocilayout.File{text("tag", tag)}, staging+"test-image-tag:"+tag)
	}
}

// smallImages are only ever pulled and listed.
func (b *builder) smallImages() {
	note := func(content string) []ocilayout.Layer { return []ocilayout.Layer{{text("TEST", content)}} }
	for _, n := range []string{"1", "2", "3", "latest"} {
		b.add(shell, note("test-image-"+n), staging+"test-image-"+n+":latest")
	}
	b.add(shell, note("test-image-digest"), ByDigest)
	b.add(shell, note("test-image-tags"), staging+"test-image-tags:1", staging+"test-image-tags:2", staging+"test-image-tags:3")
}
