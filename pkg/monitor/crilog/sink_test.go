// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A client that is attached after the container's end, as an upgrade of the
// monitor in that moment has it, reads the end and is told.
func TestSinkAfterTheEnd(t *testing.T) {
	st := &Stream{}
	for _, end := range []func(){func() {}, st.endSinks} {
		end()
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		told := 0
		st.Attach(&Sink{FD: pipe[1], Ended: func() { told++ }})
		if told == 0 {
			st.endSinks() // the one that came in time
		}
		r := os.NewFile(uintptr(pipe[0]), "pipe")
		if b, err := io.ReadAll(r); err != nil || len(b) != 0 || told != 1 {
			t.Errorf("read %q, %v; told %d times", b, err, told)
		}
		r.Close()
	}
}
