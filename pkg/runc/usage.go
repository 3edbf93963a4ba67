// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Usage is what a container uses, by its runtime's account.
type Usage struct {
	CPU    uint64 // ns
	Memory uint64 // bytes
}

// Accounts tells whether the handler's runtime has to be asked what a container
// uses, because the container's cgroup does not tell.
func (s *Service) Accounts(handler string) bool {
	_, sandboxed := s.sandboxed(handler)
	return sandboxed
}

// Usage asks the runtime what a container uses.
func (s *Service) Usage(ctx context.Context, handler, id string) (Usage, error) {
	h, err := s.Handler(handler)
	if err != nil {
		return Usage{}, err
	}
	out, err := s.command(ctx, h, id, program.Command{}, "events", "--stats", id)
	if err != nil {
		return Usage{}, err
	}
	var event struct {
		Data struct {
			CPU struct {
				Usage struct {
					Total uint64 `json:"total"`
				} `json:"usage"`
			} `json:"cpu"`
			Memory struct {
				Usage struct {
					Usage uint64 `json:"usage"`
				} `json:"usage"`
			} `json:"memory"`
		} `json:"data"`
	}
	if err := json.Unmarshal(out, &event); err != nil {
		return Usage{}, fmt.Errorf("read what container %.12s uses: %w", id, err)
	}
	return Usage{CPU: event.Data.CPU.Usage.Total, Memory: event.Data.Memory.Usage.Usage}, nil
}
