// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"io"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

// PassOn copies a session's output to the client until the container has ended.
// One output that was cut short ends the session: the client must not take the
// rest for the whole.
func PassOn(ctx context.Context, session *monitor.Attachment, c Client) error {
	ended := make(chan error, 2)
	outputs := 0
	for _, o := range []struct {
		to   io.Writer
		from io.Reader
	}{{c.Stdout, session.Stdout}, {c.Stderr, session.Stderr}} {
		if o.from != nil {
			outputs++
			go func() { // ends with the container, the session, or the client's connection
				_, err := io.Copy(o.to, o.from)
				ended <- err
			}()
		}
	}
	dropped := session.Ended()
	for outputs > 0 {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			outputs--
		case <-dropped:
			if err := session.Err(); err != nil {
				return err // at once: a copy may be waiting for the client
			}
			dropped = nil // the container has ended, and the client gets the rest
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
