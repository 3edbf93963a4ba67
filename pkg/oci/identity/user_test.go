// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/identity"
)

// userRoot makes an image root with passwd and group files.
func userRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\nalias:x:1000:7::/home/alias:\nbare:x:5:5:::\n",
		"group":  "root:x:0:\nweb:x:1000:\nextra:x:50000:web,other\nmore:x:50001:alias\nwww:x:33:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestResolveUser(t *testing.T) {
	v := func(i int64) *cri.Int64Value { return &cri.Int64Value{Value: i} }
	open := identity.OpenIn(userRoot(t))
	for name, c := range map[string]struct {
		image string
		sc    *cri.LinuxContainerSecurityContext
		want  identity.User
	}{
		"nothing":          {"", nil, identity.User{Groups: []uint32{0}, Home: "/root"}},
		"image uid":        {"1000", nil, identity.User{UID: 1000, GID: 1000, Groups: []uint32{1000, 50000}, Home: "/home/web"}},
		"image name":       {"web", nil, identity.User{UID: 1000, GID: 1000, Groups: []uint32{1000, 50000}, Home: "/home/web"}},
		"second name":      {"alias", nil, identity.User{UID: 1000, GID: 7, Groups: []uint32{7, 50001}, Home: "/home/alias"}},
		"image uid:gid":    {"1003:1004", nil, identity.User{UID: 1003, GID: 1004, Groups: []uint32{1004}, Home: "/"}},
		"image name:group": {"web:www", nil, identity.User{UID: 1000, GID: 33, Groups: []uint32{33, 50000}, Home: "/home/web"}},
		"image uid:group":  {"1003:www", nil, identity.User{UID: 1003, GID: 33, Groups: []uint32{33}, Home: "/"}},
		"no home":          {"bare", nil, identity.User{UID: 5, GID: 5, Groups: []uint32{5}, Home: "/"}},
		"uid beats image":  {"web:www", &cri.LinuxContainerSecurityContext{RunAsUser: v(42)}, identity.User{UID: 42, Groups: []uint32{0}, Home: "/"}},
		"uid and gid": {
			"", &cri.LinuxContainerSecurityContext{RunAsUser: v(1000), RunAsGroup: v(8), SupplementalGroups: []int64{9, 8, 50000}},
			identity.User{UID: 1000, GID: 8, Groups: []uint32{8, 50000, 9}, Home: "/home/web"},
		},
		"username": {"", &cri.LinuxContainerSecurityContext{RunAsUsername: "web", RunAsGroup: v(8)}, identity.User{UID: 1000, GID: 8, Groups: []uint32{8, 50000}, Home: "/home/web"}},
		"strict": {
			"web", &cri.LinuxContainerSecurityContext{SupplementalGroups: []int64{1234}, SupplementalGroupsPolicy: cri.SupplementalGroupsPolicy_Strict},
			identity.User{UID: 1000, GID: 1000, Groups: []uint32{1000, 1234}, Home: "/home/web"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := identity.Resolve(t.Context(), open, c.image, c.sc)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		image string
		sc    *cri.LinuxContainerSecurityContext
	}{
		"unknown name":  {"ghost", nil},
		"unknown group": {"web:ghosts", nil},
		"too large":     {"4294967295", nil},
		"username":      {"", &cri.LinuxContainerSecurityContext{RunAsUsername: "ghost"}},
		"group alone":   {"web", &cri.LinuxContainerSecurityContext{RunAsGroup: v(1)}},
		"colon":         {"", &cri.LinuxContainerSecurityContext{RunAsUsername: "web:root"}},
	} {
		if _, err := identity.Resolve(t.Context(), open, c.image, c.sc); err == nil {
			t.Errorf("%s: resolved", name)
		} else {
			rejected(t, err)
		}
	}
}

func TestUserOfScratchImage(t *testing.T) {
	open := identity.OpenIn(t.TempDir())
	got, err := identity.Resolve(t.Context(), open, "7:8", nil)
	if want := (identity.User{UID: 7, GID: 8, Groups: []uint32{8}, Home: "/"}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := identity.Resolve(t.Context(), open, "web", nil); err == nil {
		t.Error("a name resolved without a passwd file")
	}
	if u := got.CRI().GetLinux(); u.GetUid() != 7 || u.GetGid() != 8 || len(u.GetSupplementalGroups()) != 1 {
		t.Errorf("status %v", u)
	}
}

// TestUserFilesStayInTheImage: an image can't point its passwd at the host's, at a device, or at something endless.
func TestUserFilesStayInTheImage(t *testing.T) {
	root, outside := userRoot(t), t.TempDir()
	passwd := filepath.Join(root, "etc/passwd")
	if err := os.WriteFile(filepath.Join(outside, "passwd"), []byte("web:x:0:0::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	replace := func(target string) {
		t.Helper()
		if err := os.Remove(passwd); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, passwd); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{filepath.Join(outside, "passwd"), "../../../../../../../../" + outside + "/passwd", "/dev/null", "/etc"} {
		replace(target)
		if u, err := identity.Resolve(t.Context(), identity.OpenIn(root), "web", nil); err == nil {
			t.Errorf("passwd -> %s resolved to %+v", target, u)
		}
	}
	// Within the image links are fine, as distributions that keep a store use them.
	if err := os.MkdirAll(filepath.Join(root, "store"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "store/passwd"), []byte("web:x:77:77::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	replace("/store/passwd")
	if u, err := identity.Resolve(t.Context(), identity.OpenIn(root), "web", nil); err != nil || u.UID != 77 {
		t.Errorf("passwd in the store: %+v, %v", u, err)
	}
	if err := os.WriteFile(filepath.Join(root, "store/passwd"), []byte(strings.Repeat("#", 9<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Resolve(t.Context(), identity.OpenIn(root), "web", nil); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("9 MiB of passwd: %v", err)
	}
}
