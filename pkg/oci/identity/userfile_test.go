// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/test/linear"
)

// imageFiles is an image that holds two files.
func imageFiles(passwd, group string) identity.OpenFunc {
	return func(path string) (io.ReadCloser, error) {
		text, ok := map[string]string{"/etc/passwd": passwd, "/etc/group": group}[path]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

// TestIDsOutOfRange: an id that does not fit is an error that names it, wherever it is from. Cut to 32 bits it would be
// somebody else's, root's for one.
func TestIDsOutOfRange(t *testing.T) {
	for _, bad := range []string{"4294967296", "4294967295", "2147483648", "-1", "-4294967296", "99999999999999999999", "-99999999999999999999"} {
		for name, c := range map[string]struct{ passwd, group, user string }{
			"uid of a name":         {"big:x:" + bad + ":7::/:", "", "big"},
			"gid of a name":         {"big:x:7:" + bad + "::/:", "", "big"},
			"gid of a uid":          {"big:x:7:" + bad + "::/:", "", "7"},
			"gid of root":           {"root:x:0:" + bad + "::/:", "", ""},
			"gid of a group":        {"", "big:x:" + bad + ":", "7:big"},
			"gid of a membership":   {"web:x:7:7::/:", "big:x:" + bad + ":web", "web"},
			"literal uid":           {"", "", bad},
			"literal gid":           {"", "", "7:" + bad},
			"literal of that name":  {bad + ":x:7:7::/:", "", bad},
			"group of that name":    {"", bad + ":x:7:", "7:" + bad},
			"literal with a group":  {"", "web:x:7:", bad + ":web"},
			"literal gid of a name": {"web:x:7:7::/:", "", "web:" + bad},
		} {
			u, err := identity.Resolve(t.Context(), imageFiles(c.passwd, c.group), c.user, nil)
			if err == nil {
				t.Errorf("%s %s: resolved to %+v", name, bad, u)
				continue
			}
			rejected(t, err)
			if !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "0-2147483647") {
				t.Errorf("%s %s: error %q does not name the id and the range", name, bad, err)
			}
		}
	}
	last := imageFiles("web:x:2147483647:2147483647::/:", "g:x:2147483646:web")
	if u, err := identity.Resolve(t.Context(), last, "web", nil); err != nil || u.UID != 1<<31-1 || !slices.Equal(u.Groups, []uint32{1<<31 - 1, 1<<31 - 2}) {
		t.Errorf("the last ids: %+v, %v", u, err)
	}
}

// TestOddUserFiles: lines that nobody asks for do no harm, whatever is in them, and broken ones that somebody does ask
// for never stand for root.
func TestOddUserFiles(t *testing.T) {
	passwd := "\n  \n#web:x:1:1::/:\n+::::::\n:::\nbroken:x:abc:1::/:\nnobody-here:x:-1:5::/:\n\t web:x:8:9:a comment:/home/web \nshort:x:12\nnul:x:13:13::/a\x00b:\nweb:x:0:0::/:"
	group := "wheel\nnone:x::\nbad:x:-5:somebody\nlong:x:20:" + strings.Repeat("m,", 100000) + "web\nlast:x:21:web,,"
	open := imageFiles(passwd, group)
	u, err := identity.Resolve(t.Context(), open, "web", nil)
	if err != nil || u.UID != 8 || u.GID != 9 || u.Home != "/home/web" || !slices.Equal(u.Groups, []uint32{9, 20, 21}) {
		t.Errorf("web: %+v, %v", u, err)
	}
	if u, err := identity.Resolve(t.Context(), open, "short", nil); err != nil || u.UID != 12 || u.GID != 0 || u.Home != "/" {
		t.Errorf("short: %+v, %v", u, err)
	}
	for _, user := range []string{"broken", "+", "nul", "web:none", "web:wheel"} {
		if u, err := identity.Resolve(t.Context(), open, user, nil); err == nil {
			t.Errorf("%s: resolved to %+v", user, u)
		} else {
			rejected(t, err)
		}
	}
}

func TestTooManyGroups(t *testing.T) {
	groups := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "::%d:w\n", i+1)
		}
		return b.String()
	}
	const passwd = "w:x:1:1::/:"
	if u, err := identity.Resolve(t.Context(), imageFiles(passwd, groups(1<<16)), "w", nil); err != nil || len(u.Groups) != 1<<16 {
		t.Errorf("as many groups as a process can have: %d, %v", len(u.Groups), err)
	}
	_, err := identity.Resolve(t.Context(), imageFiles(passwd, groups(1<<16+1)), "w", nil)
	rejected(t, err)
	_, err = identity.Resolve(t.Context(), imageFiles(passwd, ""), "w", &cri.LinuxContainerSecurityContext{SupplementalGroups: make([]int64, 1<<16+1)})
	rejected(t, err)
}

func TestUserFileSize(t *testing.T) {
	full := strings.Repeat("#", 1<<20-1) + "\n"
	if _, err := identity.Resolve(t.Context(), imageFiles(full, full), "7", nil); err != nil {
		t.Errorf("files of 1 MiB: %v", err)
	}
	for path, open := range map[string]identity.OpenFunc{
		"/etc/passwd": imageFiles(full+"\n", ""), "/etc/group": imageFiles("web:x:7:7::/:", strings.Repeat("g:x:7:web\n", 800000)),
	} {
		_, err := identity.Resolve(t.Context(), open, "7", nil)
		rejected(t, err)
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "1048576") {
			t.Errorf("error %q names neither file nor bound", err)
		}
	}
}

// TestUserLookupEnds: a lookup ends with its context, and is no fault of the image then.
func TestUserLookupEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := identity.Resolve(ctx, imageFiles("web:x:7:7::/:", ""), "web", nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the lookup was cancelled", err)
	}
}

// TestUserLookupIsLinear: whoever makes an image chooses its files.
func TestUserLookupIsLinear(t *testing.T) {
	const sizes = 5000 // lines; twice as many of the longest fit in the bound
	for name, line := range map[string]struct{ passwd, group string }{
		"groups of a user":   {"", "g%d:x:%[1]d:w\n"},
		"one group":          {"", "g%d:x:1:w\n"},
		"groups of others":   {"", "g%d:x:%[1]d:a,b,c,d,e\n"},
		"users":              {"u%d:x:9%[1]d:7::/:\n", ""},
		"users with odd ids": {"u%d:x:z%[1]d:7::/:\n", ""},
		"empty lines":        {"%.0d\n\n\n\n\n", "%.0d\n\n\n\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, sizes, func(n int) func() {
				var passwd, group strings.Builder
				for i := range n {
					if line.passwd != "" {
						fmt.Fprintf(&passwd, line.passwd, i)
					}
					if line.group != "" {
						fmt.Fprintf(&group, line.group, i)
					}
				}
				open := imageFiles(passwd.String()+"w:x:1:1::/:\n", group.String())
				return func() {
					if _, err := identity.Resolve(t.Context(), open, "1", nil); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// rejected checks that err is of the class that the package promises.
func rejected(t *testing.T, err error) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("error %v is not InvalidArgument", err)
	}
}
