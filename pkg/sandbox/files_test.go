// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// A pod without name servers of its own, said in any way, has the host's.
func TestResolvConf(t *testing.T) {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dns  *cri.DNSConfig
		want string
	}{
		{nil, string(host)},
		{&cri.DNSConfig{}, string(host)},
		{&cri.DNSConfig{Servers: []string{}, Searches: []string{}, Options: []string{}}, string(host)},
		{&cri.DNSConfig{Options: []string{"ndots:5", "rotate"}}, "options ndots:5 rotate\n"},
		{&cri.DNSConfig{Servers: []string{"10.0.0.1", "fd00::1"}, Searches: []string{"a.example", "b.example"}}, "search a.example b.example\nnameserver 10.0.0.1\nnameserver fd00::1\n"},
	} {
		if got, err := resolvConf(c.dns); err != nil || got != c.want {
			t.Errorf("%v: %q, %v; want %q", c.dns, got, err, c.want)
		}
	}
}

// Another version of the pause program replaces the one before it, also one of
// the same size; the same one is left where it is.
func TestPauseIsInstalledByContent(t *testing.T) {
	layout := state.Layout{State: t.TempDir()}
	path := filepath.Join(layout.PauseRootFS(), "pause")
	install := func(program string) os.FileInfo {
		t.Helper()
		if err := New(Options{Layout: layout, Pause: []byte(program)}).installPause(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != program || info.Mode().Perm() != 0o555 {
			t.Errorf("installed %q, mode %v; want %q", got, info.Mode(), program)
		}
		return info
	}
	first := install("one")
	if !os.SameFile(first, install("one")) {
		t.Error("the same program was installed again")
	}
	install("two")
	install("three")
}
