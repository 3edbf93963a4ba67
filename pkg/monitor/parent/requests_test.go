// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// ops reads the names of packets out of the protocol's source: those a client sends,
// and the events, which nobody may ask for.
func ops(t *testing.T) (requests, events []wire.Op) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../wire/protocol.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	told := []string{"OpExit", "OpSessionExit", "OpDetached", "OpStdinClosed"}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Op" {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(told, spec.Names[0].Name) {
			events = append(events, wire.Op(text))
		} else {
			requests = append(requests, wire.Op(text))
		}
		return true
	})
	return requests, events
}

// TestEveryRequestHasARow, and nothing else has one.
func TestEveryRequestHasARow(t *testing.T) {
	table := requests()
	asked, events := ops(t)
	if len(asked) < 10 || len(events) != 4 {
		t.Fatalf("requests %v, events %v", asked, events)
	}
	for _, o := range asked {
		r, ok := table[o]
		if !ok || r.serve == nil {
			t.Errorf("%s has no row", o)
		}
		if r.first != (o == wire.OpHello) {
			t.Errorf("%s may come before hello: %t", o, r.first)
		}
		delete(table, o)
	}
	for o := range table {
		t.Errorf("row of %s, which is no request", o)
	}
}

// talk serves one connection without a monitor behind it and returns the other end.
func talk(t *testing.T) (c *conn, ask func(text string, fds ...int) *wire.Packet) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*wire.Socket
	for i, fd := range pair {
		if ends[i], err = wire.NewSocket(fd); err != nil {
			t.Fatal(err)
		}
	}
	m := &Monitor{ctx: t.Context(), log: slog.New(slog.DiscardHandler), requests: requests(), conns: map[*conn]struct{}{}}
	c = newConn(m, ends[0])
	c.start()
	t.Cleanup(ends[1].Close)
	return c, func(text string, fds ...int) *wire.Packet {
		t.Helper()
		if err := ends[1].Send([]byte(text), fds); err != nil {
			t.Fatal(err)
		}
		b, _, err := ends[1].Recv(nil)
		if err != nil {
			t.Fatal(err)
		}
		p := new(wire.Packet)
		if err := json.Unmarshal(b, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// TestRefusals: before hello every request but that, and at any time what is no
// request.
func TestRefusals(t *testing.T) {
	asked, events := ops(t)
	c, ask := talk(t)
	for i, o := range slices.Concat(asked, events, []wire.Op{"dance", ""}) {
		if o == wire.OpHello {
			continue
		}
		r := ask(fmt.Sprintf(`{"op":%q,"req":%d}`, o, i+1))
		if r.Op != o || r.Req != uint64(i+1) || !wire.IsFailedPrecondition(r.Err.Err()) {
			t.Errorf("%q before hello: %+v, %v", o, r, r.Err.Err())
		}
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	for _, o := range slices.Concat(events, []wire.Op{"dance", ""}) {
		if r := ask(fmt.Sprintf(`{"op":%q,"req":9}`, o)); r.Err == nil || r.Err.Class != "invalid_argument" {
			t.Errorf("%q: %+v", o, r)
		}
	}
}

// TestOtherDescriptorsAreClosed: a request gets those of its row.
func TestOtherDescriptorsAreClosed(t *testing.T) {
	kinds := []wire.FDKind{wire.Pidfd, wire.Stdin, wire.Stdout, wire.Stderr, wire.TTY, "unheard of"}
	for o, r := range requests() {
		var fds []int
		for range kinds {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		p := &wire.Packet{Op: o, FDs: slices.Clone(kinds)}
		got := take(p, fds, r.takes)
		if len(got) != len(r.takes) || len(p.FDs) != len(got) {
			t.Errorf("%s takes %v: %v, %v", o, r.takes, p.FDs, got)
		}
		for i, kind := range kinds {
			_, err := unix.FcntlInt(uintptr(fds[i]), unix.F_GETFD, 0)
			if wanted := slices.Contains(r.takes, kind); wanted != (err == nil) {
				t.Errorf("%s: descriptor %s is open: %t", o, kind, err == nil)
			}
		}
		wire.CloseFDs(got)
	}
}
