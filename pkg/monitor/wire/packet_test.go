// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

func FuzzPacket(f *testing.F) {
	f.Add([]byte(`{"op":"launch","req":1,"launch":{"id":"a","argv":["/x"]}}`))
	f.Add([]byte(`{"op":"list","fds":["pidfd"]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.Decode(b)
		if (p == nil) == (err == nil) {
			t.Fatalf("packet %v, error %v", p, err)
		}
	})
}
