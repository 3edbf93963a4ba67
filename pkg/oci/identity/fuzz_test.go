// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"math"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/identity"
)

// FuzzUserFiles: whatever an image has for /etc/passwd, /etc/group and USER, it gives a user with ids in the range of
// Kubernetes, or is refused as the image's mistake.
func FuzzUserFiles(f *testing.F) {
	const passwd, group = "root:x:0:0:root:/root:/bin/sh\nweb:x:7:8:Web:/srv:/bin/false\n", "root:x:0:\nweb:x:8:\nlogs:x:9:root,web\n"
	for _, user := range []string{"", "0", "web", "7:logs", "web:9", "nobody", "-1", "+7", "2147483648", "web:", ":logs", "7:8:9"} {
		f.Add(passwd, group, user)
	}
	f.Add("web:x:7\n#web:x:8:8\n\n:::::\nweb", "logs", "web:logs")
	f.Add("web:x:7:8::/\x00:\n", "a:x:4294967296:web", "web")
	merge := &cri.LinuxContainerSecurityContext{SupplementalGroups: []int64{7}}
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		u, err := identity.Resolve(t.Context(), imageFiles(passwd, group), user, merge)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		if u.UID > math.MaxInt32 || slices.Max(u.Groups) > math.MaxInt32 || u.Groups[0] != u.GID || u.Home == "" {
			t.Errorf("user %+v", u)
		}
	})
}
