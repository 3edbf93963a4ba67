// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// notImplemented answers the RPC of its name, as a server does that does not
// know it: Kubernetes' tests tell by this very text what a runtime cannot do.
type notImplemented string

// Error is the text that gRPC's generated code has.
func (method notImplemented) Error() string { return "method " + string(method) + " not implemented" }

// Unwrap is the class.
func (notImplemented) Unwrap() error { return errdefs.ErrNotImplemented }

func (a *api) CheckpointContainer(context.Context, *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	return nil, notImplemented("CheckpointContainer")
}

func (a *api) CheckpointPod(context.Context, *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	return nil, notImplemented("CheckpointPod")
}

func (a *api) RestorePod(context.Context, *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return nil, notImplemented("RestorePod")
}
