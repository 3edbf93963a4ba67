// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// TestResults gives what plugins may answer to ADD.
func TestResults(t *testing.T) {
	const eth0 = `"interfaces":[{"name":"host"},{"name":"eth0","sandbox":"/x"},{"name":"net1","sandbox":"/x"}],`
	for _, tc := range []struct {
		name, result string
		ips          []string
		err          string
	}{
		{"one", `"ips":[{"address":"10.0.0.2/24"}]`, []string{"10.0.0.2"}, ""},
		{"the same twice", `"ips":[{"address":"10.0.0.2/24"},{"address":"10.0.0.2/24"}]`, []string{"10.0.0.2"}, ""},
		{"the same with another mask", `"ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"},{"address":"10.0.0.2/32"},{"address":"fd00:0::2/128"}]`, []string{"10.0.0.2", "fd00::2"}, ""},
		{"the same in another form", `"ips":[{"address":"::ffff:10.0.0.2/120"},{"address":"10.0.0.2/24"}]`, []string{"10.0.0.2"}, ""},
		{"link-local first", `"ips":[{"address":"fe80::1/64"},{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]`, []string{"10.0.0.2", "fd00::2"}, ""},
		{"IPv4 link-local first", `"ips":[{"address":"169.254.7.7/16"},{"address":"10.0.0.2/24"}]`, []string{"10.0.0.2"}, ""},
		{"link-local between", `"ips":[{"address":"10.0.0.2/24"},{"address":"fe80::1/64"},{"address":"fd00::2/64"}]`, []string{"10.0.0.2", "fd00::2"}, ""},
		{"link-local of the other family only", `"ips":[{"address":"fe80::1/64"},{"address":"10.0.0.2/24"}]`, []string{"10.0.0.2"}, ""},
		{"nothing but link-local", `"ips":[{"address":"fe80::1/64"},{"address":"fe80::1/64"}]`, []string{"fe80::1"}, ""},
		{"IPv6 first", `"ips":[{"address":"fd00::2/64"},{"address":"10.0.0.2/24"}]`, []string{"fd00::2", "10.0.0.2"}, ""},
		{"of several interfaces", eth0 + `"ips":[{"address":"10.1.0.2/24","interface":2},{"address":"10.0.0.2/24","interface":1},{"address":"10.2.0.2/24","interface":0}]`, []string{"10.0.0.2"}, ""},
		{"of another name", eth0 + `"ips":[{"address":"10.1.0.2/24","interface":2}]`, []string{"10.1.0.2"}, ""},
		{"of an interface that is not listed", eth0 + `"ips":[{"address":"10.1.0.2/24","interface":7}]`, []string{"10.1.0.2"}, ""},
		{"no use", `"ips":[{"address":"0.0.0.0/0"},{"address":"127.0.0.1/8"},{"address":"::1/128"},{"address":"224.0.0.1/4"}]`, nil, "no IP address for eth0"},
		{"none", `"ips":[]`, nil, "no IP address for eth0"},
		{"empty", `"dns":{}`, nil, "no IP address for eth0"},
		{"null for an address", `"ips":[null]`, nil, "null in place of an address"},
		{"null for an interface", `"interfaces":[null],"ips":[{"address":"10.0.0.2/24","interface":0}]`, []string{"10.0.0.2"}, ""},
		{"without mask", `"ips":[{"address":"10.0.0.2"}]`, nil, "10.0.0.2"},
		{"no address", `"ips":[{"address":"web"}]`, nil, "web"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+n.fake(fmt.Sprintf(`,"result":{"cniVersion":"1.0.0",%s}`, tc.result))+`,`+n.fake("")+`]}`)
			a := n.pod("p1")
			res, err := n.Add(t.Context(), a)
			if tc.err != "" {
				wantErr(t, err, "add to network", tc.err)
			} else if err != nil || !slices.Equal(res.IPs, tc.ips) {
				t.Errorf("IPs %v, want %v: %v", res.IPs, tc.ips, err)
			}
			must(t, n.Del(t.Context(), a))
			n.noLeaks()
		})
	}
}

// TestScriptsArePlugins: they say their word in many ways.
func TestScriptsArePlugins(t *testing.T) {
	const result = `{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.9/24"}]}`
	for name, script := range map[string]string{
		"reopens its outputs": `echo note >/dev/stderr; echo '` + result + `' >/dev/stdout`,
		"appends":             `echo one >>/dev/stderr; echo '` + result + `' >>/dev/stdout; echo two >>/dev/stderr`,
		"in parts":            `echo '{"cniVersion":"1.0.0",' >/dev/stdout; echo '"ips":[{"address":"203.0.113.9/24"}]}' >/dev/stdout`,
		"talks":               `head -c 300000 /dev/zero >/dev/stderr; echo '` + result + `'`,
		"leaves a daemon":     `sleep 5 & echo '` + result + `'`,
		"reads its input":     `grep -q '"name":"net"' /dev/stdin; echo '` + result + `'`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			must(t, os.WriteFile(n.dir+"/bin/cri-script", []byte("#!/bin/sh\nset -e\n[ $CNI_COMMAND = ADD ] || exit 0\n"+script+"\n"), 0o755))
			n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"cri-script"}]}`)
			a := n.pod("p1")
			res, err := n.Add(t.Context(), a)
			if err != nil || !slices.Equal(res.IPs, []string{"203.0.113.9"}) {
				t.Errorf("IPs %v, %v", res.IPs, err)
			}
			must(t, n.Del(t.Context(), a))
			n.noLeaks()
		})
	}
}
