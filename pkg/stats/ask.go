// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"time"
)

const (
	// diskPatience is how long one answer, of however many containers, waits for the use of writable layers.
	diskPatience = 250 * time.Millisecond
	// accountPatience is the same for what runtimes account, which takes a process of theirs per container.
	accountPatience = 2 * time.Second
)

// questions are what others know of the containers of one answer.
type questions struct {
	disks    asked[Disk]
	accounts asked[Account]
}

// askAll asks about all containers at once, so that they wait together.
func askAll(ctx context.Context, all []Container) *questions { return askThese(ctx, all, all) }

// askDisks leaves accounts out.
func askDisks(ctx context.Context, all []Container) *questions { return askThese(ctx, all, nil) }

func askThese(ctx context.Context, disks, accounts []Container) *questions {
	return &questions{
		disks:    ask(ctx, diskPatience, disks, func(c Container) func(context.Context) (Disk, error) { return c.Disk }),
		accounts: ask(ctx, accountPatience, accounts, func(c Container) func(context.Context) (Account, error) { return c.Account }),
	}
}

// close ends the questions that have no answer yet.
func (q *questions) close() {
	q.disks.cancel()
	q.accounts.cancel()
}

// asked is one kind of question.
type asked[A any] struct {
	of     map[string]*question[A] // by container id
	cancel context.CancelFunc
}

type question[A any] struct {
	done   chan struct{}
	answer A // with err: written before done is closed
	err    error
}

func ask[A any](ctx context.Context, patience time.Duration, all []Container, whom func(Container) func(context.Context) (A, error)) asked[A] {
	ctx, cancel := context.WithTimeout(ctx, patience)
	q := asked[A]{of: make(map[string]*question[A], len(all)), cancel: cancel}
	for _, c := range all {
		answer := whom(c)
		if answer == nil || q.of[c.ID] != nil {
			continue
		}
		one := &question[A]{done: make(chan struct{})}
		q.of[c.ID] = one
		go func() {
			defer close(one.done)
			one.answer, one.err = answer(ctx)
		}()
	}
	return q
}

// answer is what is known of the container, if it was to be had in time.
func (q asked[A]) answer(id string) (a A, known bool, err error) {
	one := q.of[id]
	if one == nil {
		return a, false, nil
	}
	<-one.done // at the latest when the patience is over
	return one.answer, one.err == nil, one.err
}

// disk is the container's disk use.
func (s *Service) disk(q *questions, c Container) (Disk, bool) {
	d, known, err := q.disks.answer(c.ID)
	if err != nil {
		s.log.Debug("disk statistics unavailable", "container", c.ID, "err", err)
	}
	return d, known
}

// accounted is the usage of a container whose cgroup holds none of its processes.
func (s *Service) accounted(q *questions, c Container) usage {
	a, known, err := q.accounts.answer(c.ID)
	if err != nil {
		s.log.Debug("the runtime tells no statistics", "container", c.ID, "err", err)
	}
	if !known {
		return usage{}
	}
	return usage{cpu: &cpu{usage: a.CPU}, memory: &memory{usage: a.Memory, workingSet: a.Memory, limit: noLimit}}
}
