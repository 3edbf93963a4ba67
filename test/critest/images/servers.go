// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cri-shim/cri-shim/test/ocilayout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const page = "<!doctype html><title>test image</title><p>It answers.\n"

const nginxConf = `user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 64; }
http {
	access_log /dev/stdout;
	server { listen PORT; root /var/www/html; }
}
`

const httpdConf = `ServerName localhost
Listen 80
PidFile /var/run/httpd.pid
LoadModule mpm_event_module MODULES/mod_mpm_event.so
LoadModule authz_core_module MODULES/mod_authz_core.so
LoadModule dir_module MODULES/mod_dir.so
User www-data
Group www-data
LogLevel notice
ErrorLog /proc/self/fd/2
DocumentRoot /var/www/html
DirectoryIndex index.html
`

// servers adds the web servers: real ones, since specs look for nginx's master process and for httpd's log.
func (b *builder) servers(root string) error {
	nginx, err := withLibraries(root, "usr/sbin/nginx")
	if err != nil {
		return err
	}
	for port, names := range map[string][]string{
		"80":    {Nginx, e2e + "nginx:1.27.0-2", e2e + "nginx:1.28.0-2"},
		"12003": {staging + "hostnet-nginx-" + runtime.GOARCH + ":latest"},
	} {
		b.on(ocispec.ImageConfig{
			Entrypoint: []string{"nginx"}, Cmd: []string{"-g", "daemon off;"},
			ExposedPorts: map[string]struct{}{port + "/tcp": {}}, StopSignal: "SIGQUIT",
		}, slices.Concat(nginx, []ocilayout.File{
			text("etc/nginx/nginx.conf", strings.ReplaceAll(nginxConf, "PORT", port)),
			text("var/www/html/index.html", page), folder("var/lib/nginx"), folder("var/log/nginx"),
		}), names...)
	}
	return b.apache(root)
}

func (b *builder) apache(root string) error {
	const modules = "usr/lib/apache2/modules/"
	httpd, err := withLibraries(root, "usr/sbin/apache2",
		modules+"mod_mpm_event.so", modules+"mod_authz_core.so", modules+"mod_dir.so")
	if err != nil {
		return err
	}
	for i := range httpd {
		if httpd[i].Path == "usr/sbin/apache2" {
			httpd[i].Path = "usr/sbin/httpd" // the name it logs
		}
	}
	b.on(ocispec.ImageConfig{
		Cmd: []string{"httpd", "-f", "/etc/httpd.conf", "-D", "FOREGROUND"}, StopSignal: "SIGWINCH",
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
	}, append(httpd,
		text("etc/httpd.conf", strings.ReplaceAll(httpdConf, "MODULES", "/"+strings.TrimSuffix(modules, "/"))),
		folder("etc/apache2"), text("var/www/html/index.html", page),
	), e2e+"httpd:2.4.39-4")
	return nil
}

func fetchServers(ctx context.Context, o Options, root string) error {
	return o.unpacked(ctx, root, func(debian) ([]string, error) {
		return []string{
			"nginx", "apache2-bin", "libapr1", "libaprutil1", "libc6", "libcrypt1", "libexpat1", "libpcre2-8-0", "libssl3", "libuuid1", "zlib1g",
		}, nil
	})
}

// unpacked makes the folder root of Debian's packages.
func (o Options) unpacked(ctx context.Context, root string, packages func(debian) ([]string, error)) error {
	work, err := os.MkdirTemp(o.Cache, filepath.Base(root)+"-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	d := debian{dir: work, say: o.Say}
	if err := d.update(ctx); err != nil {
		return err
	}
	names, err := packages(d)
	if err != nil {
		return err
	}
	if err := d.unpack(ctx, filepath.Join(work, "root"), names...); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "root"), root)
}

// withLibraries is the programs and every library they need.
func withLibraries(root string, programs ...string) ([]ocilayout.File, error) {
	libs, err := libraries(root, programs...)
	if err != nil {
		return nil, err
	}
	return from(root, append(programs, libs...)...)
}

// programs adds the images of our own programs, pause and the set-uid program, and of those of Kubernetes that are there.
func (b *builder) programs(o Options) error {
	pause := ocilayout.Layer{{Path: "pause", Mode: 0o755, Source: o.Pause}}
	b.add(ocispec.ImageConfig{Entrypoint: []string{"/pause"}}, []ocilayout.Layer{pause}, "registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9",
		"registry.k8s.io/pause:3.10.2")
	b.on(ocispec.ImageConfig{Entrypoint: []string{"/nnp"}},
		[]ocilayout.File{{Path: "nnp", Mode: fs.ModeSetuid | 0o755, Source: filepath.Join(o.Cache, "nnp")}}, e2e+"nonewprivs:1.3", e2e+"nonewprivs:1.4")
	if o.Programs == "" {
		return nil
	}
	if p := o.program("agnhost", "agnhost"); len(p) > 0 {
		if err := b.agnhost(o, p[0]); err != nil {
			return err
		}
	}
	for _, i := range []struct{ program, at, image string }{
		{"coredns", "coredns", CoreDNS},
		{"etcd", "usr/local/bin/etcd", "registry.k8s.io/etcd:3.7.0-0"},
		{"sample-apiserver", "sample-apiserver", e2e + "sample-apiserver:1.29.2"},
	} {
		if p := o.program(i.program, i.at); len(p) > 0 {
			b.add(ocispec.ImageConfig{Entrypoint: []string{"/" + i.at}}, []ocilayout.Layer{p}, i.image)
		}
	}
	return nil
}

// program is a program of Kubernetes as a layer of an image, an empty one if it is not there.
func (o Options) program(name, at string) ocilayout.Layer {
	path := filepath.Join(o.Programs, name)
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	return ocilayout.Layer{{Path: at, Mode: 0o755, Source: path}}
}

// agnhost adds upstream's test server, under both names that specs call it by and with the programs they call beside it,
// and the images that differ from it by the pages they serve.
func (b *builder) agnhost(o Options, program ocilayout.File) error {
	tools, err := withLibraries(filepath.Join(o.Cache, "tools"), "usr/bin/curl", "usr/bin/dig", "usr/bin/getent", "bin/nc.openbsd")
	if err != nil {
		return err
	}
	for i := range tools {
		if tools[i].Path == "bin/nc.openbsd" {
			tools[i].Path = "usr/bin/nc"
		}
	}
	serves := func(command string) ocispec.ImageConfig {
		return ocispec.ImageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{command}}
	}
	all := append([]ocilayout.File{
		program,
		{Path: "agnhost-2", Hardlink: "agnhost", Mode: 0o755},
		folder("uploads"),
		text("etc/passwd", passwd+"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"),
		text("etc/group", group+"user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"),
	}, tools...)
	if o.Certificate != "" {
		for _, ext := range []string{".crt", ".key"} {
			all = append(all, ocilayout.File{Path: "localhost" + ext, Mode: 0o644, Source: o.Certificate + ext})
		}
	}
	b.on(serves("pause"), all, Agnhost, e2e+"agnhost:2.55")
	for _, animal := range []string{"nautilus", "kitten"} {
		file := animal + ".jpg"
		b.on(serves("test-webserver"), append(slices.Clone(all), text("data.json", `{"image": "`+file+`"}`), text(file, page)), e2e+animal+":1.8")
	}
	b.on(shell, tools, e2e+"glibc-dns-testing:2.1.1")
	return nil
}

func fetchTools(ctx context.Context, o Options, root string) error {
	return o.unpacked(ctx, root, func(d debian) ([]string, error) {
		return d.closure(ctx, "curl", "bind9-dnsutils", "libc-bin", "netcat-openbsd")
	})
}

func buildNNP(ctx context.Context, _ Options, name string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", name,
		"github.com/cri-shim/cri-shim/test/critest/images/nnp")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, tail(out))
	}
	return nil
}
