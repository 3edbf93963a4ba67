// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"golang.org/x/sys/unix"
)

// A kernel without SELinux keeps the attribute all the same.
func TestLabel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: writes a security attribute")
	}
	const context = "system_u:object_r:container_file_t:s0:c1,c2"
	path := filepath.Join(t.TempDir(), "pipe")
	if err := sys.MakeFIFO(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		buf := make([]byte, 256)
		n, err := unix.Lgetxattr(path, "security.selinux", buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}
	before := read()
	if err := sys.Label(path, ""); err != nil || read() != before {
		t.Errorf("no label makes %q of %q: %v", read(), before, err)
	}
	if err := sys.Label(path, context); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimRight(read(), "\x00"); got != context {
		t.Errorf("label %q, want %q", got, context)
	}
	if err := sys.Label(path+".none", context); err == nil || !strings.Contains(err.Error(), path+".none") {
		t.Errorf("error %v, want one that names the file", err)
	}
}
