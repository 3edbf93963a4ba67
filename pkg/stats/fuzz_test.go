// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cri-shim/cri-shim/pkg/stats"
)

// FuzzCgroup: whatever one file of a cgroup says, in either version, all figures make messages that can be sent.
func FuzzCgroup(f *testing.F) {
	root := f.TempDir()
	must(f, os.CopyFS(root, os.DirFS("testdata")))
	var files []string
	must(f, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(name)
		f.Add(uint8(len(files)), raw)
		files = append(files, name)
		return err
	}))
	versions := map[string]*stats.Service{}
	for _, v := range []string{"v1", "v2"} {
		versions[v] = stats.New(stats.Options{CgroupV2: v == "v2", CgroupRoot: filepath.Join(root, v)})
	}
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		name := files[int(which)%len(files)]
		was, err := os.ReadFile(name)
		must(t, err)
		must(t, os.WriteFile(name, content, 0o600))
		for v, s := range versions {
			for _, m := range []proto.Message{
				single(t, s.Containers, container()), single(t, s.Pods, pod()), single(t, s.Metrics, pod()),
			} {
				if _, err := proto.Marshal(m); err != nil {
					t.Errorf("%s: %v", v, err)
				}
			}
		}
		must(t, os.WriteFile(name, was, 0o600))
	})
}

// FuzzInterfaces: whatever a pod calls its interfaces, their figures make a message that can be sent.
func FuzzInterfaces(f *testing.F) {
	raw, err := os.ReadFile("/proc/self/net/dev")
	must(f, err)
	f.Add(raw)
	f.Add([]byte("eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Add([]byte("\xff\x80: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Add([]byte("  a:b: -1 2 3 18446744073709551616 5 6 7 8 9 10 11 12 13 14 15 16 17\n lo:\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if u := stats.NetworkOf(raw, time.Now()); u != nil {
			if _, err := proto.Marshal(u); err != nil || u.GetDefaultInterface() == nil {
				t.Errorf("%q: default interface %v, %v", raw, u.GetDefaultInterface(), err)
			}
		}
	})
}
