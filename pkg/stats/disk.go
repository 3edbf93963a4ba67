// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"sync"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// deviceNames remembers the names of block devices, which don't change under their number while in use.
type deviceNames struct {
	mu    sync.Mutex // guards known
	known map[[2]uint32]string
}

func (n *deviceNames) name(major, minor uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]uint32{major, minor}
	name, ok := n.known[key]
	if !ok {
		if n.known == nil || len(n.known) > 256 {
			n.known = map[[2]uint32]string{}
		}
		name = sys.BlockDevice(major, minor)
		n.known[key] = name
	}
	return name
}
