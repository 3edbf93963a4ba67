// SPDX-License-Identifier: Apache-2.0

package network

import "context"

// PrepareHost is what an ADD to the default network does to the host.
func PrepareHost(ctx context.Context, s *Service) error {
	if _, err := s.defaultList(true); err != nil {
		return err
	}
	return s.prepareHost(ctx)
}
