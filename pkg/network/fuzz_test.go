// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/network"
)

// FuzzConf: whatever is in a CNI configuration file is refused, or names plugins, the same ones in the record that is
// kept of it for DEL.
func FuzzConf(f *testing.F) {
	for _, text := range []string{
		fakeNet("a", "1.0.0"), `{"cniVersion":"0.4.0","name":"lone","type":"x"}`, `{"name":"lone","type":"x"}`, `{"name":`, ``, `null`, `[]`, `{}`,
		`{"cniVersion":"1.0.0","name":"a","plugins":[]}`, `{"cniVersion":"7.0.0","name":"a","plugins":[{"type":"x"}]}`, `{"name":"../a","type":"x"}`,
		`{"cniVersions":["1.0.0","7.0.0"],"name":"a","plugins":[{"type":"x"}]}`, `{"cniVersion":1,"name":2,"plugins":3}`, `{"name":"a","plugins":[null]}`,
		`{"cniVersion":"1.1.0","name":"a","disableCheck":"true","disableGC":1,"loadOnlyInlinedPlugins":false,"plugins":[{"type":"x","capabilities":{"a":true}}]}`,
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "10-a.conflist")
	f.Fuzz(func(t *testing.T, text []byte) {
		must(t, os.WriteFile(path, text, 0o600))
		types, recorded, err := network.LoadConf(path)
		if err == nil && (len(types) == 0 || !slices.Equal(types, recorded)) {
			t.Errorf("plugins %q, in the record %q", types, recorded)
		}
	})
}

// FuzzResult: whatever a plugin answers to ADD is refused, or gives addresses that others can use.
func FuzzResult(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24","interface":1}],"interfaces":[{"name":"h"},{"name":"eth0","sandbox":"/x"}]}`,
		`{"cniVersion":"1.1.0","ips":[{"address":"fe80::1/64"},{"address":"::ffff:10.0.0.2/120"}]}`, `{"cniVersion":"1.0.0","ips":[null]}`,
		`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24","interface":-1}],"interfaces":[null]}`, `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2"}]}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"},"ip6":{"ip":"fd00::2/64"}}`, `{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}]}`,
		`{}`, `null`, ``, `{"cniVersion":"9.9.9"}`, `{"cniVersion":"1.0.0","interfaces":[null],"ips":[{"address":"10.0.0.2/24","interface":0}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		ips, err := network.IPs(answer)
		if err == nil && len(ips) == 0 {
			t.Error("neither an address nor an error")
		}
		for _, ip := range ips {
			a, err := netip.ParseAddr(ip)
			if err != nil || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
				t.Errorf("address %q, %v", ip, err)
			}
		}
	})
}
