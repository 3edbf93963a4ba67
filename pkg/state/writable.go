// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"sync"
)

// disk remembers whether the last record could be written. The zero value
// trusts the disk.
type disk struct {
	mu      sync.Mutex // guards refused
	refused error
	probing sync.Mutex // held while one caller tests whether it still refuses
}

// noted keeps how a write went and hands it on.
func (d *disk) noted(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = err
	return err
}

func (d *disk) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// Writable tells why records cannot be written. While the last write worked it
// asks nobody; after one that did not, it writes. What the file system says of
// itself is not enough: ext4 that stopped at an error has called itself
// writable since Linux 6.15, and one file may be refused where others are not.
// A disk on which the write hangs delays a caller no longer than ctx.
func (s *Store) Writable(ctx context.Context) error {
	refused := s.disk.last()
	if refused == nil || !s.disk.probing.TryLock() {
		return refused
	}
	answer := make(chan error, 1)
	go func() {
		err := s.disk.noted(s.boot.write())
		s.disk.probing.Unlock() // before the answer: who asks again after it is to write again
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return refused
	}
}
