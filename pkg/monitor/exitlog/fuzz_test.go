// SPDX-License-Identifier: Apache-2.0

package exitlog

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// FuzzExitLog: whatever a crash or a full file system left of an exit log, it opens, numbers go on behind those that it
// has, and it says the same once it was written anew.
func FuzzExitLog(f *testing.F) {
	for _, text := range []string{
		"", "{\"epoch\":\"a\"}\n{\"next\":7,\"ack\":6}\n{\"exit\":{\"id\":\"x\",\"seq\":7}}\n", "{\"epoch\":\"a\"}\n{\"exit\":{\"id\":\"x\",\"seq\":1}}\n{\"exit\":{\"id\":\"y\",",
		"{\"exit\":{\"id\":\"x\",\"seq\":1}}\n{\"exit\":{\"id\":\"y\",\"seq\":2}}\n{\"ack\":1}\n{\"drop\":2}\n", "{\"ack\":5}\n{\"exit\":{\"id\":\"x\",\"seq\":3}}\n", "null\n{}\n[]\n\x00\x00",
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "exits")
	reopen := func(t *testing.T) *Log {
		l, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l.file.Close()
		return l
	}
	same := func(a, b wire.Exit) bool { return reflect.DeepEqual(a, b) }
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l := reopen(t)
		for _, e := range l.live {
			if e.Seq <= l.acked || e.Seq >= l.next {
				t.Errorf("exit %d, acknowledged up to %d, next %d", e.Seq, l.acked, l.next)
			}
		}
		if again := reopen(t); again.epoch != l.epoch || again.next < l.next || again.acked != l.acked || !slices.EqualFunc(again.live, l.live, same) {
			t.Errorf("read again: epoch %q, next %d, acknowledged %d, %+v; was %q, %d, %d, %+v", again.epoch, again.next, again.acked, again.live, l.epoch, l.next, l.acked, l.live)
		}
	})
}
