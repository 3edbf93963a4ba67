// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"path"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

// FuzzSysctl: a sysctl is refused as the caller's mistake, or the file that the runtime writes for it is one of those
// that the pod's namespaces have of their own.
func FuzzSysctl(f *testing.F) {
	for _, key := range []string{
		"net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shm_rmid_forced", "kernel/msgmax", "fs.mqueue.msg_max", "kernel.domainname",
		"kernel.panic", "net", "net.", "net..ipv4", "net/../kernel/panic", "net.//kernel.panic", "", ".", "/", "net.\n", "NET.ipv4",
	} {
		f.Add(key, "1")
	}
	f.Add("net.ipv4.ping_group_range", "0\x00")
	f.Fuzz(func(t *testing.T, key, value string) {
		err := oci.ValidateSysctls(map[string]string{key: value}, nil)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		p := testPause()
		p.Config.Linux = &cri.LinuxPodSandboxConfig{Sysctls: map[string]string{key: value}}
		spec, err := oci.Pause(p)
		if err != nil {
			t.Fatalf("%q: taken by itself, and refused in a pod: %v", key, err)
		}
		for name := range spec.Linux.Sysctl { // dots and slashes trade places on the way to a path, in runc and crun
			file := path.Clean(strings.NewReplacer(".", "/", "/", ".").Replace(name))
			own := file == "kernel/domainname" || strings.HasPrefix(file, "net/") || strings.HasPrefix(file, "fs/mqueue/") ||
				strings.HasPrefix(file, "kernel/msg") || strings.HasPrefix(file, "kernel/sem") || strings.HasPrefix(file, "kernel/shm")
			if !own || strings.ContainsAny(name, "\x00\n") {
				t.Errorf("%q: written to /proc/sys/%s", key, file)
			}
		}
	})
}
