// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errNoCheckpoints answers all three checkpoint RPCs: nothing is dumped, so
// nothing has to be undone.
func errNoCheckpoints(doing string) error {
	return fmt.Errorf("%s: cri-shim does not support checkpoints yet: %w", doing, errdefs.ErrNotImplemented)
}

func (a *api) CheckpointContainer(context.Context, *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	return nil, errNoCheckpoints("checkpoint container")
}

func (a *api) CheckpointPod(context.Context, *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	return nil, errNoCheckpoints("checkpoint pod")
}

func (a *api) RestorePod(context.Context, *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return nil, errNoCheckpoints("restore pod")
}
