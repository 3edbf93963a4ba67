// SPDX-License-Identifier: Apache-2.0

// Package sandbox is the life of pods: run, stop, remove, and what becomes of
// them when pause dies or the daemon was away.
//
// Invariants:
//   - RunPodSandbox is the list of steps in run.go; each is idempotent, and its
//     paths and names derive from the pod's id.
//   - One teardown undoes all of them, needing only the id. It is the rollback
//     of a failed run, the work of Stop and Remove, and the repair after a crash.
//   - CNI DEL comes before the network namespace goes, always.
//   - A request that is repeated joins the one in flight, and finds its result
//     afterwards: there is no "name is reserved".
//
// The package does not create containers; stopping a pod stops them through
// pkg/container.
package sandbox

import (
	"context"
	"log/slog"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/hostpath"
)

// Options are what the service works with.
type Options struct {
	Store      *state.Store
	Ops        *state.Ops
	Layout     state.Layout
	Containers *container.Service
	RootFS     *rootfs.Service
	Network    *network.Service
	Runtime    *runc.Service
	Monitor    *monitor.Client
	Plugins    *nri.Service // nil: NRI is switched off
	Host       oci.Host
	Lookup     oci.Lookup
	Pause      []byte // the pause program
	Log        *slog.Logger
}

// Service runs pods.
type Service struct {
	Options
	paths  hostpath.Paths
	starts starts
}

// New makes the service.
func New(o Options) *Service { return &Service{Options: o} }

func (s *Service) lock(ctx context.Context, id state.PodID) (func(), error) {
	return s.Ops.Lock(ctx, "pod/"+string(id))
}
