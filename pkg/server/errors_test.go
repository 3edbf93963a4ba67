// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-shim/cri-shim/pkg/server"
)

func TestStatusOf(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	gone, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	plain := errors.New("runc: exec format error")
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		want codes.Code
	}{
		{"none", t.Context(), nil, codes.OK},
		{"invalid", t.Context(), errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{"not found", t.Context(), errdefs.ErrNotFound, codes.NotFound},
		{"exists", t.Context(), errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{"precondition", t.Context(), errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{"unavailable", t.Context(), errdefs.ErrUnavailable, codes.Unavailable},
		{"not implemented", t.Context(), errdefs.ErrNotImplemented, codes.Unimplemented},
		{"exhausted", t.Context(), errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		{"data loss", t.Context(), errdefs.ErrDataLoss, codes.DataLoss},
		{"internal", t.Context(), errdefs.ErrInternal, codes.Internal},
		{"exec timeout", t.Context(), context.DeadlineExceeded, codes.DeadlineExceeded},
		{"daemon stops", t.Context(), context.Canceled, codes.Canceled},
		{"no class", t.Context(), plain, codes.Unknown},
		{"caller's deadline", late, plain, codes.DeadlineExceeded},
		{"caller gone", gone, errdefs.ErrNotFound, codes.Canceled},
		{"registry", t.Context(), crierrors.ErrRegistryUnavailable, codes.Unknown},
		{"registry with a class", t.Context(), fmt.Errorf("%w: %w", crierrors.ErrRegistryUnavailable, errdefs.ErrUnavailable), codes.Unknown},
		{"signature", t.Context(), crierrors.ErrSignatureValidationFailed, codes.Unknown},
	} {
		err := tt.err
		if err != nil {
			err = fmt.Errorf("do it: %w", err)
		}
		s := server.StatusOf(tt.ctx, err)
		if s.Code() != tt.want || err != nil && s.Message() != err.Error() || len(s.Details()) != 0 {
			t.Errorf("%s: %s %q with %v, want %s", tt.name, s.Code(), s.Message(), s.Details(), tt.want)
		}
	}
}

func TestStatusOfKeepsTextsWithinBounds(t *testing.T) {
	s := server.StatusOf(t.Context(), errors.New("start: \xff"+strings.Repeat("ä", server.MaxErrorText)))
	if len(s.Message()) > server.MaxErrorText+10 || !utf8.ValidString(s.Message()) || !strings.HasPrefix(s.Message(), "start: ?ä") {
		t.Errorf("%d bytes: %.20q", len(s.Message()), s.Message())
	}
}

// TestLogLinesAreBounded: neither an error nor a name that a client sends makes a log line of its length.
func TestLogLinesAreBounded(t *testing.T) {
	n := newNode(t)
	n.server.Open()
	before := len(n.log.String())
	long := strings.Repeat("x", 1<<20)
	if _, err := n.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: long}); status.Code(err) != codes.NotFound {
		t.Errorf("container: %s", status.Code(err))
	}
	if _, err := n.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: long}); err != nil {
		t.Errorf("pod: %s", status.Code(err))
	}
	if _, err := n.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: long + "://"}}); err == nil {
		t.Error("an image was pulled")
	}
	if grew := len(n.log.String()) - before; grew == 0 || grew > 4*server.MaxErrorText {
		t.Errorf("logged %d bytes", grew)
	}
}
