// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// BenchmarkAttachment measures one pod's ADD and DEL, and what is ours in them.
func BenchmarkAttachment(b *testing.B) {
	for _, kind := range []string{"default network", "bridge and portmap", "host-local alone"} {
		b.Run(kind, func(b *testing.B) {
			opts := network.Options{ConfDir: b.TempDir(), CacheDir: b.TempDir(), BinDirs: []string{pluginDir()}}
			var s *network.Service
			switch kind {
			case "default network":
				withDefault(&opts)
				defer func() { _ = s.RemoveDefaultNetwork(b.Context()) }()
			case "bridge and portmap":
				benchFile(b, opts.ConfDir, bridgeConf("1.0.0", "test0", opts.CacheDir+"/ipam", `,{"type":"portmap","capabilities":{"portMappings":true}}`))
			default:
				benchFile(b, opts.ConfDir, `{"cniVersion":"1.0.0","name":"n","type":"host-local","ipam":{"type":"host-local","subnet":"10.9.0.0/16","dataDir":"`+opts.CacheDir+`/ipam"}}`)
			}
			s, err := network.New(opts)
			if err != nil {
				b.Fatal(err)
			}
			var ns, add, del time.Duration
			for i := 0; b.Loop(); i++ {
				a := network.Attachment{PodID: fmt.Sprintf("p%d", i), NetNS: filepath.Join(opts.CacheDir, fmt.Sprintf("cri-%d", i))}
				ns += took(b, func() error { return netns.New(a.NetNS) })
				add += took(b, func() error { _, err := s.Add(b.Context(), a); return err })
				del += took(b, func() error { return s.Del(b.Context(), a) })
				ns += took(b, func() error { return netns.Remove(a.NetNS) })
			}
			per := func(d time.Duration) float64 { return d.Seconds() * 1e3 / float64(b.N) }
			b.ReportMetric(per(add), "add-ms")
			b.ReportMetric(per(del), "del-ms")
			b.ReportMetric(per(ns), "netns-ms")
		})
	}
}

func took(b *testing.B, f func() error) time.Duration {
	b.Helper()
	start := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func benchFile(b *testing.B, dir, text string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(dir, "10.conflist"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkReady is what each Status pays: a look at the configuration directory and at the plugins.
func BenchmarkReady(b *testing.B) {
	opts := network.Options{ConfDir: b.TempDir(), CacheDir: b.TempDir(), BinDirs: []string{pluginDir()}}
	benchFile(b, opts.ConfDir, bridgeConf("1.0.0", "test0", "/x", ""))
	s, err := network.New(opts)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Ready(); err != nil {
			b.Fatal(err)
		}
	}
}
