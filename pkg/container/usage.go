// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"

	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Accounted tells whether Usage knows what a container uses, and its cgroup does not.
func (s *Service) Accounted(c state.Container) bool { return s.Runtime.Accounts(s.handlerOf(c)) }

// Usage is what the container uses by its runtime's account.
func (s *Service) Usage(ctx context.Context, c state.Container) (runc.Usage, error) {
	return s.Runtime.Usage(ctx, s.handlerOf(c), string(c.ID))
}
