// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
	"github.com/cri-shim/cri-shim/pkg/monitor/exitlog"
	"github.com/cri-shim/cri-shim/pkg/monitor/fdstore"
	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// Node is what its containers share.
type Node struct {
	Dir      string // a directory per container is in it
	Log      *slog.Logger
	Life     context.Context //nolint:containedctx // the process's, for work no request waits for
	Poller   *poll.Poller
	Journal  *crilog.Journal
	Exits    *exitlog.Log
	Reaper   *child.Reaper
	Consoles *child.Consoles
	Store    *fdstore.Store
	// Tell tells every client that subscribed. It does not block.
	Tell func(*wire.Packet)
}

// Set are the containers of a node. Its methods may be called from any goroutine.
type Set struct {
	Node

	mu         sync.Mutex // guards what follows
	containers map[string]*Container
	outputs    map[*crilog.Output]struct{} // whose files are open, of containers that have ended too
}

// NewSet makes an empty one; Recover takes over what is in the directory.
func NewSet(n Node) *Set {
	return &Set{Node: n, containers: map[string]*Container{}, outputs: map[*crilog.Output]struct{}{}}
}

// Get returns a container that runs or whose launch is under way. NotFound when
// there is none.
func (s *Set) Get(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, wire.NotFound(fmt.Errorf("container %s is not running", id))
	}
	return c, nil
}

// All returns the containers, by id.
func (s *Set) All() []*Container {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *Container) int { return strings.Compare(a.rec.ID, b.rec.ID) })
	return all
}

// AwaitLaunches returns when the launches that are under way, of one container or
// with id "" of all, are over, or ctx is.
func (s *Set) AwaitLaunches(ctx context.Context, id string) {
	for _, c := range s.All() {
		if c.launched != nil && (id == "" || c.rec.ID == id) {
			select {
			case <-c.launched:
			case <-ctx.Done():
				return
			}
		}
	}
}

// AwaitLogs fails when a log does not answer within d, also one of a container
// that has ended.
func (s *Set) AwaitLogs(d time.Duration) error {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.outputs))
	s.mu.Unlock()
	for _, o := range all {
		if err := o.AwaitIdle(d); err != nil {
			return err
		}
	}
	return nil
}

// Forget drops what is left of a removed container. FailedPrecondition for one
// that runs: its exit would have no reader.
func (s *Set) Forget(id string) error {
	if err := validID(id); err != nil {
		return err
	}
	if _, err := s.Get(id); err == nil {
		return wire.FailedPrecondition(fmt.Errorf("forget %s: it is running", id))
	}
	s.Exits.Drop(id)
	return nil
}

// enter reserves c's id.
func (s *Set) enter(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.containers[c.rec.ID]; ok {
		return wire.AlreadyExists(fmt.Errorf("container %s is already running", c.rec.ID))
	}
	s.containers[c.rec.ID] = c
	return nil
}

func (s *Set) leave(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.rec.ID] == c {
		delete(s.containers, c.rec.ID)
	}
}

// newOutput makes the output of a container, and remembers it until it is closed.
func (s *Set) newOutput(dir string, l *wire.Launch) *crilog.Output {
	var o *crilog.Output
	s.mu.Lock()
	defer s.mu.Unlock()
	o = crilog.NewOutput(crilog.Target{ID: l.ID, Dir: dir, Path: l.LogPath, Below: l.LogDir}, s.Journal, s.Log, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.outputs, o)
	})
	s.outputs[o] = struct{}{}
	return o
}

func validID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
		return wire.InvalidArgument(fmt.Errorf("container id %q is not usable as a name", id))
	}
	return nil
}
