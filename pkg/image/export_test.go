// SPDX-License-Identifier: Apache-2.0

package image

import "context"

// Expiries are when the leases of pulls end, "" for those that do not.
func Expiries(ctx context.Context, s *Service) ([]string, error) {
	all, err := s.leases.List(s.context(ctx))
	var out []string
	for _, l := range all {
		out = append(out, l.Labels[labelExpire])
	}
	return out, err
}
