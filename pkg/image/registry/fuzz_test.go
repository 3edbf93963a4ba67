// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/image/registry"
)

// FuzzHosts: whatever is in a hosts.toml gives hosts to ask or an error.
func FuzzHosts(f *testing.F) {
	for _, text := range []string{
		"", "server = \"https://mirror\"\n", "[host.\"http://a:1/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n",
		"[host.\"https://b\"]\nca = [\"x\"]\nclient = [[\"c\", \"k\"]]\noverride_path = true\ndial_timeout = \"1s\"\n[host.\"https://b\".header]\nx = [\"y\"]\n",
		"server = 1", "[host]", "[host.\"\"]", "[[host]]",
	} {
		f.Add(text)
	}
	root := f.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		hosts, err := registry.HostNames(t.Context(), root, "registry.test")
		if err == nil && len(hosts) == 0 {
			t.Errorf("nobody to ask, and no error, with %q", text)
		}
	})
}

// FuzzAnswer: whatever a registry's header says, a wait is positive and bounded, and a challenge is taken or refused.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"", "1", "-1", "0", "18446744073709551616", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
		`Bearer realm="https://x/token",service="a\"b",scope="c d"`, "Basic", `Bearer realm=":"`, "Bearer", `Digest x="`,
	} {
		f.Add(text, text)
	}
	request, err := http.NewRequest(http.MethodGet, "https://registry.example/v2/", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, header, date string) {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {header}, "Date": {date}}}
		if wait, ok := registry.PutOff(resp); ok && (wait < time.Second || wait > 366*24*time.Hour) {
			t.Errorf("%q, %q: wait %s", header, date, wait)
		}
		_ = registry.Challenge(t.Context(), request, http.Header{"Www-Authenticate": {header, date}}) // it returns
	})
}
