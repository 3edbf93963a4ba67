// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	// maxMessage is the size limit of kubelets and crictl for what they receive,
	// and ours for both ways.
	maxMessage = 16 << 20
	// maxErrorText keeps what a runtime or registry had to say within the header
	// frames an error travels in.
	maxErrorText = 8 << 10
	// maxLoggedName is as long as names that are valid.
	maxLoggedName = 512
)

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return s.call(ctx, info.FullMethod, req, func() (any, error) {
		resp, err := handle(ctx, req)
		if err != nil {
			return nil, err
		}
		return resp, checkSize(info.FullMethod, resp)
	})
}

func (s *Server) streaming(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	_, err := s.call(ss.Context(), info.FullMethod, nil, func() (any, error) { return nil, handle(srv, ss) })
	return err
}

// call is around every RPC: the gate, panics, the log line, the status code.
func (s *Server) call(ctx context.Context, fullMethod string, req any, handle func() (any, error)) (resp any, err error) {
	method, began := path.Base(fullMethod), time.Now()
	log := s.o.Log.With("rpc", method, "req", s.calls.Add(1))
	if err = s.admit(method); err == nil {
		resp, err = recovered(ctx, log, handle)
	}
	st := statusOf(ctx, err)
	if level := levelOf(method, st.Code()); log.Enabled(ctx, level) {
		attrs := append(namesIn(req), namesIn(resp)...)
		attrs = append(attrs, slog.Duration("dur", time.Since(began)))
		if err != nil {
			attrs = append(attrs, slog.String("code", st.Code().String()), slog.String("err", st.Message()))
		}
		log.LogAttrs(ctx, level, "call", attrs...)
	}
	return resp, st.Err()
}

// admit lets two RPCs through the closed gate: they tell that it is closed.
func (s *Server) admit(method string) error {
	if method == "Version" || method == "Status" {
		return nil
	}
	return s.gate.check()
}

func recovered(ctx context.Context, log *slog.Logger, handle func() (any, error)) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "err", p, "stack", string(debug.Stack()))
			resp, err = nil, fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
		}
	}()
	return handle()
}

// checkSize refuses an answer no client takes, with words that help more than
// the transport's.
func checkSize(fullMethod string, resp any) error {
	m, ok := resp.(proto.Message)
	if !ok {
		return nil
	}
	size := proto.Size(m)
	if size <= maxMessage {
		return nil
	}
	return fmt.Errorf("answer %s: %d bytes exceed the limit of %d that clients accept, use filters or the Stream form of the call: %w",
		path.Base(fullMethod), size, maxMessage, errdefs.ErrResourceExhausted)
}

// infoOverhead is more than a map entry takes besides its text.
const infoOverhead = 64

// infoRoom is how many bytes a verbose status may add to an answer.
func infoRoom(resp proto.Message) int { return maxMessage - infoOverhead - proto.Size(resp) }

// statusOf is the one place where errors become status codes: by class, and
// Unknown without one.
func statusOf(ctx context.Context, err error) *status.Status {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	switch {
	case ctx.Err() != nil: // what broke off because of it says less
		code = status.FromContextError(ctx.Err()).Code()
	case errors.Is(err, crierrors.ErrRegistryUnavailable), errors.Is(err, crierrors.ErrSignatureValidationFailed):
		// Clients give the bare text, which kubelets look at, for this code only.
	default:
		code = status.Code(errgrpc.ToGRPC(err))
	}
	if code == codes.Unknown && sys.IsDiskFull(err) {
		code = codes.ResourceExhausted
	}
	return status.New(code, clip(err.Error(), maxErrorText))
}

// clip makes a text valid UTF-8 of limit bytes at most.
func clip(text string, limit int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// levelOf: what clients ask all the time is for debugging, and so are the
// answers they expect. What went wrong on our side is an error.
func levelOf(method string, code codes.Code) slog.Level {
	often := strings.HasPrefix(method, "List") || strings.HasPrefix(method, "Stream") || strings.Contains(method, "Stat") ||
		slices.Contains([]string{"Version", "ImageFsInfo", "ExecSync", "GetContainerEvents"}, method)
	switch code {
	case codes.OK, codes.NotFound, codes.Canceled, codes.Unimplemented:
		if often {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case codes.InvalidArgument, codes.FailedPrecondition, codes.DeadlineExceeded:
		if method == "ExecSync" { // a probe's command, again at each period
			return slog.LevelDebug
		}
		return slog.LevelWarn
	case codes.AlreadyExists, codes.Unavailable, codes.ResourceExhausted:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// namesIn picks what the log may say about a request or answer: ids and names.
func namesIn(message any) []slog.Attr {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, clip(value, maxLoggedName)))
		}
	}
	switch m := message.(type) {
	case *cri.RunPodSandboxRequest:
		meta := m.GetConfig().GetMetadata()
		add("pod", meta.GetNamespace()+"/"+meta.GetName())
	case *cri.RunPodSandboxResponse:
		add("id", m.GetPodSandboxId())
	case *cri.CreateContainerRequest:
		add("pod", m.GetPodSandboxId())
		add("container", m.GetConfig().GetMetadata().GetName())
		add("image", m.GetConfig().GetImage().GetImage())
	case *cri.CreateContainerResponse:
		add("id", m.GetContainerId())
	case interface{ GetPodSandboxId() string }:
		add("pod", m.GetPodSandboxId())
	case interface{ GetContainerId() string }:
		add("container", m.GetContainerId())
	case interface{ GetImage() *cri.ImageSpec }:
		add("image", m.GetImage().GetImage())
	}
	return attrs
}

// ignoreNotFound is for the five RPCs that CRI calls idempotent, and no other.
func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
