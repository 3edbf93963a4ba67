// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// Store is the door to all records. Safe for concurrent use; reads never wait
// for a disk.
type Store struct {
	mu         sync.RWMutex // guards rows, order, names and owned of both tables, and feeds
	pods       table[Pod]
	containers table[Container]
	feeds      map[*Feed]struct{}
	rebooted   bool
	boot       boot
	disk       disk
}

// Open loads the records under l.Root. bootID is the kernel's
// /proc/sys/kernel/random/boot_id; when it differs from the last run's,
// Rebooted tells so and nothing that ran can still be running.
func Open(l Layout, bootID string, log *slog.Logger) (*Store, error) {
	s := &Store{
		pods:       podTable(l),
		containers: containerTable(l),
		feeds:      map[*Feed]struct{}{},
		boot:       bootFile(l, bootID),
	}
	var both errgroup.Group
	both.Go(func() error { return s.pods.load(log) })
	both.Go(func() error { return s.containers.load(log) })
	if err := both.Wait(); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	var err error
	s.rebooted, err = s.boot.record()
	if err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	return s, nil
}

// Rebooted tells whether the machine booted since the last run.
func (s *Store) Rebooted() bool { return s.rebooted }

// Pod finds a pod by its id or by a prefix no other pod has. Errors are
// ErrNotFound, and ErrInvalidArgument for an ambiguous prefix.
func (s *Store) Pod(prefix string) (Pod, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pods.find(prefix)
}

// Container finds a container like Pod finds a pod.
func (s *Store) Container(prefix string) (Container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.containers.find(prefix)
}

// Pods yields every pod there is at the call, oldest first.
func (s *Store) Pods() iter.Seq[Pod] {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return values(s.pods.order)
}

// Containers yields every container like Pods does pods.
func (s *Store) Containers() iter.Seq[Container] {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return values(s.containers.order)
}

// Count returns how many records there are.
func (s *Store) Count() (pods, containers int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.pods.order), len(s.containers.order)
}

// ContainersOf returns the containers of one pod, oldest first.
func (s *Store) ContainersOf(id PodID) []Container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.containers.of(string(id))
}

// BeginPod writes the record of a new pod, whose phase must be PodCreating.
// When a pod of the same name exists it is returned instead, with began false.
// Its time of creation is that of the wall clock alone, which is what the file
// has: the order of records must not depend on which of them were read from
// files, and times with and without a monotonic reading have no order.
func (s *Store) BeginPod(p Pod) (existing Pod, began bool, err error) {
	p.Phase, p.CreatedAt = PodCreating, p.CreatedAt.Round(0)
	return begin(s, &s.pods, p)
}

// BeginContainer writes the record of a new container like BeginPod.
func (s *Store) BeginContainer(c Container) (existing Container, began bool, err error) {
	c.Phase, c.CreatedAt = Creating, c.CreatedAt.Round(0)
	return begin(s, &s.containers, c)
}

func begin[R any](s *Store, t *table[R], row R) (R, bool, error) {
	id, name := t.key(row)
	if !validID(id) {
		return row, false, fmt.Errorf("begin %s %q: not a 64 digit id: %w", t.kind, id, errdefs.ErrInvalidArgument)
	}
	defer t.writes.Hold(name)()
	s.mu.RLock()
	holder, taken := t.names[name]
	existing, _ := t.get(holder)
	s.mu.RUnlock()
	if taken {
		return existing, false, nil
	}
	if err := s.disk.noted(t.write(row)); err != nil {
		return row, false, err
	}
	s.mu.Lock()
	t.names[name] = id
	t.put(id, row)
	s.mu.Unlock()
	return row, true, nil
}

// MovePod takes the pod through one event of its phase table and applies
// change, if any, in the same commit. An event the table does not allow is
// ErrFailedPrecondition and changes nothing.
func (s *Store) MovePod(id PodID, e PodEvent, change func(*Pod)) (Pod, error) {
	return commit(s, &s.pods, string(id), func(p *Pod) ([]ChangeKind, error) {
		next, err := nextPod(p.Phase, e)
		if err != nil {
			return nil, err
		}
		kinds := podChanges(p.Phase, next)
		p.Phase = next
		apply(p, change)
		return kinds, nil
	})
}

// UpdatePod changes a pod's record without moving it.
func (s *Store) UpdatePod(id PodID, change func(*Pod)) (Pod, error) {
	return commit(s, &s.pods, string(id), func(p *Pod) ([]ChangeKind, error) {
		phase := p.Phase
		change(p)
		p.Phase, p.ID = phase, id
		return nil, nil
	})
}

// MoveContainer takes the container through one event like MovePod. One that
// needs a ready pod (Launch) is refused when the pod is not, in the same commit:
// a call that moves a pod out of ready finds every container whose launch came
// first, and no launch comes after.
func (s *Store) MoveContainer(id ContainerID, e Event, change func(*Container)) (Container, error) {
	if e.needsReadyPod() {
		release, err := s.holdReady(id)
		if err != nil {
			return Container{}, err
		}
		defer release()
	}
	return commit(s, &s.containers, string(id), func(c *Container) ([]ChangeKind, error) {
		next, err := nextContainer(c.Phase, e)
		if err != nil {
			return nil, err
		}
		kinds := containerChanges(next, e)
		c.Phase = next
		apply(c, change)
		return kinds, nil
	})
}

// holdReady keeps the pod of a container from moving, and fails when it is not
// ready. Writers of a container never wait for its pod, so the order is safe.
func (s *Store) holdReady(id ContainerID) (release func(), err error) {
	c, err := s.Container(string(id))
	if err != nil {
		return nil, err
	}
	release = s.pods.writes.Hold(string(c.Pod))
	pod, err := s.Pod(string(c.Pod))
	if err == nil && pod.Phase != PodReady {
		err = fmt.Errorf("container %s: pod %s is %s: %w", id, pod.ID, pod.Phase, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// UpdateContainer changes a container's record without moving it.
func (s *Store) UpdateContainer(id ContainerID, change func(*Container)) (Container, error) {
	return commit(s, &s.containers, string(id), func(c *Container) ([]ChangeKind, error) {
		phase, pod := c.Phase, c.Pod
		change(c)
		c.Phase, c.ID, c.Pod = phase, id, pod
		return nil, nil
	})
}

// DropPod forgets a pod whose teardown is done. Dropping what is gone is fine.
func (s *Store) DropPod(id PodID) error { return drop(s, &s.pods, string(id)) }

// DropContainer forgets a container whose teardown is done.
func (s *Store) DropContainer(id ContainerID) error { return drop(s, &s.containers, string(id)) }

func apply[R any](row *R, change func(*R)) {
	if change != nil {
		change(row)
	}
}

// commit is the only way a row changes: read, change a copy, write the file,
// swap the row, tell the feeds.
func commit[R any](s *Store, t *table[R], id string, change func(*R) ([]ChangeKind, error)) (R, error) {
	defer t.writes.Hold(id)()
	s.mu.RLock()
	row, ok := t.get(id)
	s.mu.RUnlock()
	if !ok {
		return row, fmt.Errorf("%s %q: %w", t.kind, id, errdefs.ErrNotFound)
	}
	kinds, err := change(&row)
	if err != nil {
		return row, fmt.Errorf("%s %s: %w", t.kind, id, err)
	}
	if err := s.disk.noted(t.write(row)); err != nil {
		return row, err
	}
	s.mu.Lock()
	t.put(id, row)
	s.publishLocked(kinds, id, row)
	s.mu.Unlock()
	return row, nil
}

func drop[R any](s *Store, t *table[R], id string) error {
	defer t.writes.Hold(id)()
	if err := s.disk.noted(t.erase(id)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := t.take(id)
	if !ok {
		return nil
	}
	s.publishLocked([]ChangeKind{ChangeDeleted}, id, row)
	return nil
}

func podTable(l Layout) table[Pod] {
	return table[Pod]{
		kind: "pod", dir: l.Records() + "/pods", encode: encodePod, decode: decodePod,
		key:     func(p Pod) (string, string) { return string(p.ID), p.Name() },
		created: func(p Pod) time.Time { return p.CreatedAt },
	}
}

func containerTable(l Layout) table[Container] {
	return table[Container]{
		kind: "container", dir: l.Records() + "/containers", encode: encodeContainer, decode: decodeContainer,
		key:     func(c Container) (string, string) { return string(c.ID), c.Name() },
		created: func(c Container) time.Time { return c.CreatedAt },
		owner:   func(c Container) string { return string(c.Pod) },
	}
}

// SameConfig tells whether a retried request asks for what exists already.
func SameConfig(a, b proto.Message) bool { return proto.Equal(a, b) }
