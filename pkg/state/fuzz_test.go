// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"bytes"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// FuzzRecord: whatever is in a record's file is a record or an error, and a
// record is the same one after it was written and read again.
func FuzzRecord(f *testing.F) {
	p := pod("web")
	for _, file := range [][]byte{state.EncodePod(f, p), state.EncodeContainer(f, containerOf(p, "app"))} {
		f.Add(file)
		f.Add(file[:len(file)/2])
		f.Add(bytes.Replace(file, []byte(`"version":1`), []byte(`"version":2`), 1))
	}
	f.Add([]byte(`{"version":1,"pod":null,"config":null}`))
	f.Add([]byte(`{"version":1,"container":{"id":"","volumes":[null]},"mounts":[null,{}]}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		if p, err := state.DecodePod(file); err == nil {
			again, err := state.DecodePod(state.EncodePod(t, p))
			if err != nil || again.ID != p.ID || again.Name() != p.Name() || !again.CreatedAt.Equal(p.CreatedAt) || !state.SameConfig(again.Config, p.Config) {
				t.Errorf("pod %+v became %+v, %v", p, again, err)
			}
		}
		if c, err := state.DecodeContainer(file); err == nil {
			again, err := state.DecodeContainer(state.EncodeContainer(t, c))
			if err != nil || again.ID != c.ID || again.Name() != c.Name() || again.Phase != c.Phase || len(again.Mounts) != len(c.Mounts) || !state.SameConfig(again.Config, c.Config) {
				t.Errorf("container %+v became %+v, %v", c, again, err)
			}
		}
	})
}
