// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Probe tells whether path exists, and gives up when ctx ends: a path on a
// network file system whose server is gone may never answer, and no signal ends
// the wait. The thread that asks is then left behind until the file system
// answers or is unmounted; it holds nothing else.
func Probe(ctx context.Context, path string) error {
	began := time.Now()
	answer := make(chan error, 1)
	go func() {
		_, err := os.Stat(path)
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("stat %s: no answer for %s, does its file system hang?: %w", path, time.Since(began).Round(time.Millisecond), context.Cause(ctx))
	}
}
