// SPDX-License-Identifier: Apache-2.0

package server

import (
	"iter"
	"strings"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// filter is what the four kinds of list filters come to: all of it must match,
// and what is empty does.
type filter struct {
	id, pod string // starts of ids, as people type them
	labels  map[string]string
}

func (f filter) matches(id, pod string, labels map[string]string) bool {
	if !strings.HasPrefix(id, f.id) || !strings.HasPrefix(pod, f.pod) {
		return false
	}
	for key, want := range f.labels {
		if have, ok := labels[key]; !ok || have != want {
			return false
		}
	}
	return true
}

// pods selects pods; want, if any, is the state they must be in.
func (a *api) pods(f filter, want *cri.PodSandboxStateValue) iter.Seq[state.Pod] {
	return only(a.Store.Pods(), func(p state.Pod) bool {
		return p.Phase.Visible() && f.matches(string(p.ID), string(p.ID), p.Config.GetLabels()) &&
			(want == nil || podState(p) == want.GetState())
	})
}

// containers selects containers like pods selects pods.
func (a *api) containers(f filter, want *cri.ContainerStateValue) iter.Seq[state.Container] {
	return only(a.Store.Containers(), func(c state.Container) bool {
		return c.Phase.Visible() && f.matches(string(c.ID), string(c.Pod), c.Config.GetLabels()) &&
			(want == nil || c.Phase.CRI() == want.GetState())
	})
}

func only[T any](all iter.Seq[T], keep func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range all {
			if keep(v) && !yield(v) {
				return
			}
		}
	}
}

// chunkSize is what a Stream RPC puts in one message, unless a single item is
// larger.
const chunkSize = 1 << 20

// chunks sends items in messages of a bounded size, each item once. Nothing is
// sent for no items.
func chunks[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n, size := 1, proto.Size(items[0])
		for n < len(items) {
			size += proto.Size(items[n])
			if size > chunkSize {
				break
			}
			n++
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
