// SPDX-License-Identifier: Apache-2.0

package state

import "testing"

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

// Hold puts a container into memory without the disk.
func Hold(s *Store, c Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers.put(string(c.ID), c)
}

// DecodePod and DecodeContainer read a record's file.
var (
	DecodePod       = decodePod
	DecodeContainer = decodeContainer
)

// EncodePod is the file of a record.
func EncodePod(t testing.TB, p Pod) []byte { return encoded(t, p, encodePod) }

// EncodeContainer is the file of a record.
func EncodeContainer(t testing.TB, c Container) []byte { return encoded(t, c, encodeContainer) }

func encoded[R any](t testing.TB, row R, encode func(R) ([]byte, error)) []byte {
	t.Helper()
	file, err := encode(row)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
