// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const volumesImage = "cri-shim.test/volumes:1"

// imageWithVolumes declares volumes of all kinds.
func imageWithVolumes(t *testing.T) ocilayout.Image {
	img := nodetest.TestboxImage(t)
	img.Layers = append(img.Layers, ocilayout.Layer{
		{Path: "filled", Dir: true, Mode: 0o750, UID: 1000, GID: 1001},
		{Path: "filled/file", Content: []byte("from the image"), UID: 1000, GID: 1001, Mode: 0o640},
		{Path: "filled/inner", Dir: true},
		{Path: "filled/inner/file", Content: []byte("from the image too")},
		{Path: "real", Dir: true},
		{Path: "real/file", Content: []byte("behind a link")},
		{Path: "link", Symlink: "real"},
		{Path: "up", Symlink: "../../../../real"},
		{Path: "etc/motd", Content: []byte("hello")},
		{Path: "to-mine", Symlink: "/mine"},
		{Path: "to-proc", Symlink: "proc"},
		{Path: "many", Dir: true},
		{Path: "many/names", Dir: true},
		{Path: "many/names/before", Symlink: "../../short"},
	})
	img.Config.Volumes = map[string]struct{}{}
	for _, v := range []string{"/new", "/new/deep/er", "/filled", "/filled/inner", "/link", "/up", "/../../climbs", "relative", "/etc/motd", "/mine", "/proc", "/dev/shm", "/sys/fs/cgroup", "/etc/hosts", "/", "/to-mine/data", "/to-proc/sys", "/many/names/before/it"} {
		img.Config.Volumes[v] = struct{}{}
	}
	return img
}

// Each volume that an image declares is a writable directory of the container's own, with what the image has there.
func TestDeclaredVolumes(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	writeLayout(t, preload, testImage, testboxImage(t))
	writeLayout(t, preload, volumesImage, imageWithVolumes(t))
	d := startPreloaded(t, preload, volumesImage)
	for name, userns := range map[string]bool{"plain": false, "userns": true} {
		t.Run(name, func(t *testing.T) {
			config := hostNet(d.PodConfig(name))
			o := config.Linux.SecurityContext.NamespaceOptions
			if userns {
				o = inUserns(config)
			}
			pod := d.Pod(t, config)
			mine := t.TempDir()
			if err := os.Chmod(mine, 0o777); err != nil {
				t.Fatal(err)
			}
			mustMkdir(t, filepath.Join(mine, "data"))
			mustWrite(t, filepath.Join(mine, "data/file"), "the user's")
			run := func(name string, readonly bool) string {
				c := nodetest.ContainerConfig(name, "sleep")
				c.Image.Image = volumesImage
				c.Linux.SecurityContext.NamespaceOptions = clone(o)
				c.Linux.SecurityContext.ReadonlyRootfs = readonly
				c.Mounts = []*cri.Mount{{HostPath: mine, ContainerPath: "/mine"}, {HostPath: mine, ContainerPath: "/filled/mounted"}, {HostPath: mine, ContainerPath: "/short/it/mounted"}}
				return d.Run(t, pod, c, config)
			}
			writable, readonly := run("writable", false), run("readonly", true)
			for _, id := range []string{writable, readonly} {
				checkVolumes(t, d, id)
			}
			exec(t, d, writable, "write", "/new/own", "x")
			if _, _, code := d.Exec(t, readonly, tb, "stat", "/new/own"); code == 0 {
				t.Error("two containers share a volume")
			}
			if _, _, code := d.Exec(t, readonly, tb, "write", "/not-a-volume", "x"); code == 0 {
				t.Error("the root of a read-only container can be written")
			}
			removePod(t, d, pod)
		})
	}
	d.NothingLeft(t)
}

func checkVolumes(t *testing.T, d *nodetest.Node, id string) {
	t.Helper()
	for path, want := range map[string]string{
		"/filled/file": "from the image", "/filled/inner/file": "from the image too", "/link/file": "behind a link",
		"/real/file": "behind a link", "/up/file": "behind a link", "/etc/motd": "hello",
		"/mine/data/file": "the user's", "/to-mine/data/file": "the user's", "/short/it/mounted/data/file": "the user's",
	} {
		contains(t, path, exec(t, d, id, "read", path), want)
	}
	contains(t, "owners", exec(t, d, id, "stat", "/filled"), "uid=1000 gid=1001 mode=750")
	contains(t, "owners", exec(t, d, id, "stat", "/filled/file"), "uid=1000 gid=1001 mode=640")
	contains(t, "owners", exec(t, d, id, "stat", "/new"), "uid=0 gid=0 mode=755")
	for _, dir := range []string{"/new", "/new/deep/er", "/filled", "/filled/inner", "/filled/mounted", "/link", "/climbs", "/relative", "/mine", "/dev/shm", "/short/it"} {
		exec(t, d, id, "write", dir+"/written", "x")
	}
	exec(t, d, id, "write", "/etc/motd", "changed")
	info := exec(t, d, id, "read", "/proc/self/mountinfo")
	for _, at := range []string{"/proc", "/sys/fs/cgroup", "/dev/shm", "/etc/hosts", "/mine"} {
		if n := strings.Count(info, " "+at+" "); n != 1 && at != "/sys/fs/cgroup" {
			t.Errorf("%d mounts at %s", n, at)
		}
	}
}

// An image may declare as many volumes as are pulled.
func TestManyDeclaredVolumes(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	img := nodetest.TestboxImage(t)
	img.Config.Volumes = map[string]struct{}{}
	for i := range 1024 {
		img.Config.Volumes[fmt.Sprintf("/v/%d", i)] = struct{}{}
	}
	writeLayout(t, preload, testImage, testboxImage(t))
	writeLayout(t, preload, volumesImage, img)
	d := startPreloaded(t, preload, volumesImage)
	pod, p := quickPod(t, d, "many")
	c := inHostNet("many", "sleep")
	c.Image.Image = volumesImage
	id := d.Run(t, pod, c, p)
	if n := strings.Count(exec(t, d, id, "read", "/proc/self/mountinfo"), " /v/"); n != 1024 {
		t.Errorf("%d volumes are mounted", n)
	}
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// A volume that cannot be is told by its name, and leaves nothing.
func TestRefusedVolumes(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	writeLayout(t, preload, testImage, testboxImage(t))
	cases := map[string]map[string]struct{}{
		"/etc/passwd/below": {"/etc/passwd/below": {}}, "/loop": {"/loop": {}}, "/root-link": {"/root-link": {}},
	}
	refs := map[string]string{}
	for name, volumes := range cases {
		img := nodetest.TestboxImage(t)
		img.Layers = append(img.Layers, ocilayout.Layer{{Path: "loop", Symlink: "loop"}, {Path: "root-link", Symlink: ".."}})
		img.Config.Volumes = volumes
		refs[name] = fmt.Sprintf("cri-shim.test/refused-%d:1", len(refs))
		writeLayout(t, preload, refs[name], img)
	}
	d := nodetest.Start(t, fmt.Sprintf("[image]\npreload_dir = %q\n", preload))
	pod, p := quickPod(t, d, "refused")
	for name, ref := range refs {
		d.AwaitImage(t, ref)
		c := inHostNet("refused", "sleep")
		c.Image.Image = ref
		refusedContainer(t, d, pod, c, codes.InvalidArgument, name)
	}
	// What the user mounts there counts.
	c := inHostNet("covered", "sleep")
	c.Image.Image, c.Mounts = refs["/etc/passwd/below"], []*cri.Mount{{HostPath: t.TempDir(), ContainerPath: "/etc"}}
	remove(t, d, d.Create(t, pod, c, p))
	removePod(t, d, pod)
	d.NothingLeft(t)
}
