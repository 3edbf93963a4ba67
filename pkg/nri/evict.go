// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// The protocol lets plugins ask for evictions; the library reads them off the wire and drops them. They are picked up
// on the way, into a collector that travels in the request's context.

type evictionKey struct{}

// evictions are those asked for in one request or its replies.
type evictions struct{ list []*api.ContainerEviction }

func collectEvictions(ctx context.Context) (context.Context, *evictions) {
	c := &evictions{}
	return context.WithValue(ctx, evictionKey{}, c), c
}

func collected(ctx context.Context) *evictions {
	c, _ := ctx.Value(evictionKey{}).(*evictions)
	return c
}

// requestEvictions sees what plugins ask of us.
func requestEvictions(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	ctx, c := collectEvictions(ctx)
	return method(ctx, func(v any) error {
		err := unmarshal(v)
		if r, ok := v.(*api.UpdateContainersRequest); ok {
			c.list = r.GetEvict()
		}
		return err
	})
}

// replyEvictions sees what plugins answer us.
func replyEvictions(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if err := invoke(ctx, req, resp); err != nil {
		return err
	}
	c := collected(ctx)
	if c == nil {
		return nil
	}
	var reply interface {
		proto.Message
		GetEvict() []*api.ContainerEviction
	}
	switch req.GetMethod() {
	case "CreateContainer":
		reply = &api.CreateContainerResponse{}
	case "UpdateContainer":
		reply = &api.UpdateContainerResponse{}
	default:
		return nil
	}
	if err := proto.Unmarshal(resp.GetPayload(), reply); err != nil {
		return fmt.Errorf("read reply to %s: %w", req.GetMethod(), err)
	}
	c.list = append(c.list, reply.GetEvict()...)
	return nil
}
