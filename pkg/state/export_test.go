// SPDX-License-Identifier: Apache-2.0

package state

// FeedLimit is how far a reader may lag.
const FeedLimit = feedLimit

// Flood publishes n changes without the disk.
func Flood(s *Store, p Pod, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.publishLocked([]ChangeKind{ChangeStarted}, string(p.ID), p)
	}
}
