// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Limits and pure functions that tests look at from outside.
const (
	MaxMessage   = maxMessage
	MaxErrorText = maxErrorText
	ChunkSize    = chunkSize
)

// Pure functions are tested as they are.
var (
	Fit          = fit
	ImageItem    = imageItem
	DigestedName = digestedName
)

// StatusOf is the status an error is answered with.
func StatusOf(ctx context.Context, err error) *status.Status { return statusOf(ctx, err) }

// Chunks splits items as Stream RPCs do.
func Chunks[T proto.Message](items []T, send func([]T) error) error { return chunks(items, send) }

// Validate runs the checks of a request.
func Validate(request any) (err error) {
	host := oci.Host{Facts: sys.Facts{SwapAccounting: true}}
	switch r := request.(type) {
	case *cri.RunPodSandboxRequest:
		_, err = newPod(r, host)
	case *cri.CreateContainerRequest:
		_, err = newContainer(r, host)
	case *cri.StopContainerRequest:
		_, err = stopGrace(r)
	case *cri.ExecSyncRequest:
		_, err = execSyncTimeout(r)
	case *cri.ExecRequest:
		_, err = newExec(r)
	case *cri.AttachRequest:
		_, err = newAttach(r)
	case *cri.PortForwardRequest:
		_, err = newPortForward(r)
	case *cri.UpdateContainerResourcesRequest:
		_, err = newResources(r, host)
	case *cri.UpdatePodSandboxResourcesRequest:
		err = checkPodResources(r, host)
	case *cri.UpdateRuntimeConfigRequest:
		_, err = podCIDRs(r)
	}
	return err
}
