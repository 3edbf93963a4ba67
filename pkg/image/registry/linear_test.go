// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image/registry"
	"github.com/cri-shim/cri-shim/test/linear"
)

// TestHeadersAreLinear: what a registry's answers and errors say is the registry's to choose.
func TestHeadersAreLinear(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.example/v2/x/manifests/y", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, item := range map[string]string{"parameters": `a%d="b"`, "escapes": `a%d="\b"`, "spaces": "    %d", "quotes": `a="%d""`} {
		t.Run("challenge of "+name, func(t *testing.T) {
			linear.Check(t, 4000, func(n int) func() {
				header := http.Header{"Www-Authenticate": {string(linear.List(`Bearer realm="https://x/token",`, item, ``, n))}}
				return func() { _ = registry.Challenge(t.Context(), request, header) }
			})
		})
	}
	t.Run("many challenges", func(t *testing.T) {
		linear.Check(t, 4000, func(n int) func() {
			header := http.Header{"Www-Authenticate": strings.Split(string(linear.List("", `Basic realm="%d"`, "", n)), ",")}
			return func() { _ = registry.Challenge(t.Context(), request, header) }
		})
	})
	t.Run("error text", func(t *testing.T) {
		linear.Check(t, 4000, func(n int) func() {
			var errs []error
			for i := range n {
				errs = append(errs, fmt.Errorf("get http://user@host/%d?signature=%d: failed", i, i))
			}
			err := errors.Join(errs...)
			return func() { _ = registry.Redact(err) }
		})
	})
}

// TestHostsFileBound: the TOML library takes quadratic time, so a file that nobody wrote by hand is refused.
func TestHostsFileBound(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for size, ok := range map[int]bool{64 << 10: true, 64<<10 + 1: false, 1 << 20: false} {
		text := strings.Repeat("#\n", size/2) + strings.Repeat("\n", size%2)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := registry.HostNames(t.Context(), root, "registry.test")
		if ok != (err == nil) || err != nil && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), dir)) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
