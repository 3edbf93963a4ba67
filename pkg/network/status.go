// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/cri-shim/cri-shim/pkg/keyed"
)

const (
	statusFresh   = 10 * time.Second       // an answer this young is not asked for again
	statusTimeout = 10 * time.Second       // then the plugin is killed, which is an answer too
	statusWait    = 500 * time.Millisecond // patience with the very first question
)

// status is the plugins' last word on whether they could ADD.
type status struct {
	asking keyed.Flight[*libcni.NetworkConfigList, struct{}]

	mu    sync.Mutex // guards the rest
	list  *libcni.NetworkConfigList
	since time.Time // list is asked
	known bool
	err   error
	at    time.Time
}

// Status says whether a pod could be attached: there is a configuration, its plugins are installed, and those of a CNI 1.1
// network do not answer to STATUS that they can't. It does not wait for them: it gives their last answer, and has them asked again in the background when that is older than ten seconds. Only before the first
// answer does it wait, half a second at most. Errors are of class ErrUnavailable.
func (s *Service) Status(ctx context.Context) error {
	list, err := s.ready()
	if err != nil {
		return err
	}
	if !atLeast11(list) {
		return nil
	}
	st := &s.status
	done := st.ask(ctx, list, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, statusTimeout,
			fmt.Errorf("no answer within %s: %w", statusTimeout, context.DeadlineExceeded))
		defer cancel()
		return s.cni(pluginExec{}).GetStatusNetworkList(ctx, list)
	})
	if done != nil {
		wait := time.NewTimer(statusWait)
		defer wait.Stop()
		select {
		case <-done:
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	return st.answer(list)
}

// ask starts the question if an answer is due, and returns what to wait on while there is none at all.
func (st *status) ask(ctx context.Context, list *libcni.NetworkConfigList, question func(context.Context) error) <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.list != list {
		st.list, st.known, st.since = list, false, time.Now()
	}
	if st.known && time.Since(st.at) <= statusFresh {
		return nil
	}
	done := st.asking.Start(ctx, list, func(ctx context.Context) (struct{}, error) {
		err := question(ctx)
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.list == list { // else the configuration has changed
			st.known, st.err, st.at = true, err, time.Now()
		}
		return struct{}{}, nil
	})
	if st.known {
		return nil
	}
	return done
}

func (st *status) answer(list *libcni.NetworkConfigList) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.list != list:
		return nil // the configuration changed under the question; the next one will be asked
	case !st.known:
		return fmt.Errorf("network %q: no answer to STATUS for %s: %w", list.Name, time.Since(st.since).Round(time.Millisecond), errdefs.ErrUnavailable)
	case st.err != nil:
		return fmt.Errorf("network %q: STATUS %s ago: %w: %w", list.Name, time.Since(st.at).Round(time.Second), st.err, errdefs.ErrUnavailable)
	}
	return nil
}
