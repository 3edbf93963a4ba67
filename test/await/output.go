// SPDX-License-Identifier: Apache-2.0

package await

import (
	"bytes"
	"sync"
)

// Output is what others write and a test reads meanwhile. Its zero value is empty.
type Output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write adds to it.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String is all that was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
