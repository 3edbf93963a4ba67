// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"os"
	"strings"
	"testing"
)

func TestWhatIsLeftIsFound(t *testing.T) {
	before := descriptors()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if left := opened(before); len(left) != 2 || !strings.Contains(left[0], "pipe:") {
		t.Errorf("two ends of a pipe are open, found %q", left)
	}
	waits, ended := make(chan struct{}), make(chan struct{})
	go lingers(waits, ended)
	waits <- struct{}{}
	if left := strings.Join(goroutines(nil), "\n"); !strings.Contains(left, "leak.lingers") {
		t.Errorf("not found in %s", left)
	}
	if left := strings.Join(goroutines([]string{"leak.lingers"}), "\n"); strings.Contains(left, "leak.lingers") {
		t.Errorf("what may stay is found: %s", left)
	}
	waits <- struct{}{}
	<-ended
	r.Close()
	w.Close()
	if left := opened(before); len(left) != 0 {
		t.Errorf("all is closed, found %q", left)
	}
}

func lingers(waits, ended chan struct{}) {
	<-waits
	<-waits
	close(ended)
}
