// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/cri-shim/cri-shim/test/ocilayout"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
		"www-data:x:33:33:www-data:/var/www:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/home:/bin/false\n"
	group = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"
)

// busyboxLayer is a static busybox with every applet, and what a root filesystem needs besides. The applets are hard
// links, each a name of its own: where a spec masks /bin/ls, a symbolic link would mask every other applet with it.
func busyboxLayer(dir string) (ocilayout.Layer, error) {
	links, err := os.ReadFile(filepath.Join(dir, "busybox.links"))
	if err != nil {
		return nil, err
	}
	files := ocilayout.Layer{
		{Path: "tmp", Dir: true, Mode: fs.ModeSticky | 0o777},
		text("etc/passwd", passwd), text("etc/group", group),
		{Path: "bin/busybox", Mode: 0o755, Source: filepath.Join(dir, "busybox")},
		{Path: "var/run", Symlink: "../run"},
	}
	for _, d := range []string{"dev", "home", "mnt", "proc", "root", "run", "sys", "usr/lib", "var/lib", "var/log", "var/www"} {
		files = append(files, folder(d))
	}
	applets := strings.Fields(string(links))
	slices.Sort(applets)
	for _, a := range applets {
		files = append(files, ocilayout.File{Path: strings.TrimPrefix(a, "/"), Hardlink: "bin/busybox", Mode: 0o755})
		if inBin := "/bin/" + path.Base(a); !slices.Contains(applets, inBin) { // where upstream's image has them all
			files = append(files, ocilayout.File{Path: inBin[1:], Hardlink: "bin/busybox", Mode: 0o755})
		}
	}
	return files, nil
}

var (
	dynamic = regexp.MustCompile(`(?m)^# CONFIG_STATIC is not set$`)
	shaper  = regexp.MustCompile(`(?m)^CONFIG_TC=y$`) // does not build against today's kernel headers
)

func buildBusybox(ctx context.Context, o Options, dir string) error {
	work, err := os.MkdirTemp(o.Cache, "busybox-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	d := debian{dir: work, say: o.Say}
	if err := d.update(ctx); err != nil {
		return err
	}
	src := filepath.Join(work, "src")
	if err := d.source(ctx, "busybox", src); err != nil {
		return err
	}
	o.Say("building busybox from Debian's source package (once, half a minute)")
	if err := d.run(ctx, src, "make", "defconfig"); err != nil {
		return err
	}
	config := filepath.Join(src, ".config")
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	data = dynamic.ReplaceAll(data, []byte("CONFIG_STATIC=y"))
	data = shaper.ReplaceAll(data, []byte("# CONFIG_TC is not set"))
	if err := os.WriteFile(config, data, 0o644); err != nil {
		return err
	}
	if err := d.run(ctx, src, "make", fmt.Sprintf("-j%d", runtime.NumCPU()), "busybox", "busybox.links"); err != nil {
		return err
	}
	out := filepath.Join(work, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"busybox", "busybox.links"} {
		if err := os.Rename(filepath.Join(src, name), filepath.Join(out, name)); err != nil {
			return err
		}
	}
	return os.Rename(out, dir)
}
