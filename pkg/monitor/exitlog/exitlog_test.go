// SPDX-License-Identifier: Apache-2.0

package exitlog_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor/exitlog"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

func open(t *testing.T, path string) *exitlog.Log {
	t.Helper()
	l, err := exitlog.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listed are the ids that are given out, with the numbers of those that the first
// process gave.
func listed(l *exitlog.Log) (ids []string) {
	l.Replay(func(e wire.Exit) {
		if e.Seq < 10000 {
			ids = append(ids, fmt.Sprint(e.ID, e.Seq))
		} else {
			ids = append(ids, e.ID)
		}
	}, func() {})
	return ids
}

func add(l *exitlog.Log, ids ...string) {
	for i, id := range ids {
		l.Append(wire.Exit{ID: id, Pid: 100 + i}, func(wire.Exit) {})
	}
}

// TestNextProcessKnowsTheSame after each thing that is written down.
func TestNextProcessKnowsTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exits.log")
	l := open(t, path)
	for _, step := range []struct {
		do   func()
		want []string
	}{
		{func() { add(l, "a", "b", "c", "d") }, []string{"a1", "b2", "c3", "d4"}},
		{func() { l.Ack(1) }, []string{"b2", "c3", "d4"}},
		{func() { l.Drop("c") }, []string{"b2", "d4"}},
		{func() { l.Ack(99) }, nil}, // beyond what there is
		{func() { add(l, "e") }, []string{"e"}},
	} {
		step.do()
		epoch := l.Epoch()
		if got := listed(l); !reflect.DeepEqual(got, step.want) {
			t.Errorf("given out %v, want %v", got, step.want)
		}
		l = open(t, path)
		if got := listed(l); !reflect.DeepEqual(got, step.want) || l.Epoch() != epoch {
			t.Errorf("the next one gives out %v, want %v; epoch %s after %s", got, step.want, l.Epoch(), epoch)
		}
	}
	if !l.Has("e", 100) || l.Has("e", 101) || l.Has("a", 100) {
		t.Error("has the wrong exits")
	}
}

// TestTornLineIsSkipped: the others are there, and what comes next is.
func TestTornLineIsSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exits.log")
	l := open(t, path)
	add(l, "a", "b")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	lines[2] = lines[2][:10] + "\n"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	add(l, "c")
	if got := listed(open(t, path)); !reflect.DeepEqual(got, []string{"b2", "c"}) {
		t.Errorf("given out %v", got)
	}
}

// TestFileStaysSmall while everything is acknowledged.
func TestFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exits.log")
	l := open(t, path)
	for i := range uint64(6000) {
		add(l, "container-with-a-long-name")
		l.Ack(i + 1)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > 300<<10 {
		t.Errorf("%v bytes, %v", st.Size(), err)
	}
	add(l, "z")
	if got := listed(open(t, path)); !reflect.DeepEqual(got, []string{"z6001"}) {
		t.Errorf("given out %v", got)
	}
}
