// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/keyed"
)

// table is one kind of record: a directory of files and the same values in
// memory. rows, order, names and owned are guarded by the store's mu; writers
// additionally hold the lock of their id, so a file and its row cannot cross.
//
// What rows point to never changes, and neither does the slice that order is at
// a time: a list is read without a lock and without a copy.
type table[R any] struct {
	kind    string // "pod", "container": for error texts
	dir     string
	encode  func(R) ([]byte, error)
	decode  func([]byte) (R, error)
	key     func(R) (id, name string)
	created func(R) time.Time
	owner   func(R) string // whose the row is, of those that have an owner; nil: none has

	rows   map[string]*R
	order  []*R                // oldest first
	names  map[string]string   // name → id
	owned  map[string][]string // owner → ids, oldest first
	writes keyed.Lock
}

// load reads every record. A file that is no record is renamed to *.bad and
// logged; only an unreadable directory is an error.
func (t *table[R]) load(log *slog.Logger) error {
	t.rows, t.names, t.owned = map[string]*R{}, map[string]string{}, map[string][]string{}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return fmt.Errorf("make record directory: %w", err)
	}
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return fmt.Errorf("read record directory: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(t.dir, entry.Name())
		id, isRecord := strings.CutSuffix(entry.Name(), ".json")
		if !isRecord {
			removeStray(path, entry.Name())
			continue
		}
		if err := t.loadFile(path, id); err != nil {
			log.Error("record set aside: "+t.kind+" is lost", t.kind, id, "err", err, "file", path+".bad")
			if err := os.Rename(path, path+".bad"); err != nil {
				log.Error("record not set aside", "file", path, "err", err)
			}
		}
	}
	return nil
}

func (t *table[R]) loadFile(path, id string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	row, err := t.decode(data)
	if err != nil {
		return err
	}
	rowID, name := t.key(row)
	if rowID != id {
		return fmt.Errorf("the file holds %s %s", t.kind, rowID)
	}
	t.names[name] = id
	t.put(id, row)
	return nil
}

// compare puts rows in order of creation: by the wall clock, as the files have it, or rows that were read and rows that
// were made would have no common order after a clock was set.
func (t *table[R]) compare(a, b *R) int {
	if c := t.created(*a).Round(0).Compare(t.created(*b).Round(0)); c != 0 {
		return c
	}
	idA, _ := t.key(*a)
	idB, _ := t.key(*b)
	return strings.Compare(idA, idB)
}

// put makes row the value of id.
func (t *table[R]) put(id string, row R) {
	t.order = slices.Clone(t.order)
	if old := t.rows[id]; old != nil {
		t.order[slices.Index(t.order, old)] = &row
	} else {
		at, _ := slices.BinarySearchFunc(t.order, &row, t.compare)
		t.order = slices.Insert(t.order, at, &row)
		t.own(id, row)
	}
	t.rows[id] = &row
}

// own notes whose a new row is. An owner never changes.
func (t *table[R]) own(id string, row R) {
	if t.owner == nil {
		return
	}
	owner := t.owner(row)
	at, _ := slices.BinarySearchFunc(t.owned[owner], &row, func(id string, row *R) int { return t.compare(t.rows[id], row) })
	t.owned[owner] = slices.Insert(t.owned[owner], at, id)
}

// disown is the reverse of own.
func (t *table[R]) disown(id string, row R) {
	if t.owner == nil {
		return
	}
	owner := t.owner(row)
	left := slices.DeleteFunc(t.owned[owner], func(other string) bool { return other == id })
	if len(left) == 0 {
		delete(t.owned, owner)
		return
	}
	t.owned[owner] = left
}

// of returns the rows of one owner, oldest first.
func (t *table[R]) of(owner string) []R {
	var out []R
	for _, id := range t.owned[owner] {
		out = append(out, *t.rows[id])
	}
	return out
}

// take removes id and returns its last value.
func (t *table[R]) take(id string) (row R, ok bool) {
	old, ok := t.rows[id]
	if !ok {
		return row, false
	}
	at := slices.Index(t.order, old)
	t.order = slices.Delete(slices.Clone(t.order), at, at+1)
	_, name := t.key(*old)
	delete(t.rows, id)
	delete(t.names, name)
	t.disown(id, *old)
	return *old, true
}

// get returns the value of id.
func (t *table[R]) get(id string) (row R, ok bool) {
	if p := t.rows[id]; p != nil {
		return *p, true
	}
	return row, false
}

// removeStray drops what a killed atomic write left. Records set aside stay
// for inspection.
func removeStray(path, name string) {
	if !strings.HasSuffix(name, ".bad") {
		os.Remove(path)
	}
}

func (t *table[R]) path(id string) string { return filepath.Join(t.dir, id+".json") }

// write makes the record durable.
func (t *table[R]) write(row R) error {
	id, _ := t.key(row)
	data, err := t.encode(row)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", t.kind, id, err)
	}
	if err := replaceFile(t.path(id), data); err != nil {
		return fmt.Errorf("write record of %s %s: %w", t.kind, id, err)
	}
	return nil
}

// erase is not flushed: a record that comes back with a power cut is of an object
// whose every trace is gone, and is removed again.
func (t *table[R]) erase(id string) error {
	if err := removeIfThere(t.path(id)); err != nil {
		return fmt.Errorf("remove record of %s %s: %w", t.kind, id, err)
	}
	return nil
}

// find resolves a full id or a prefix that only one object has.
func (t *table[R]) find(prefix string) (R, error) {
	var none R
	if row, ok := t.get(prefix); ok {
		return row, nil
	}
	if prefix == "" {
		return none, fmt.Errorf("%s id is empty: %w", t.kind, errdefs.ErrInvalidArgument)
	}
	var found []*R
	if len(prefix) < IDLength {
		for id, row := range t.rows {
			if strings.HasPrefix(id, prefix) {
				found = append(found, row)
			}
		}
	}
	switch len(found) {
	case 1:
		return *found[0], nil
	case 0:
		return none, fmt.Errorf("%s %q: %w", t.kind, prefix, errdefs.ErrNotFound)
	default:
		return none, fmt.Errorf("%s id %q is ambiguous, %d match: %w", t.kind, prefix, len(found), errdefs.ErrInvalidArgument)
	}
}

// values yields the rows of one moment.
func values[R any](rows []*R) iter.Seq[R] {
	return func(yield func(R) bool) {
		for _, row := range rows {
			if !yield(*row) {
				return
			}
		}
	}
}
