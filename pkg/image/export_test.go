// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
)

// Guarded runs a pull so that a panic in it is an error.
var Guarded = guarded

// Expiries are when the leases of pulls end, "" for those that do not.
func Expiries(ctx context.Context, s *Service) ([]string, error) {
	all, err := s.leases.List(s.context(ctx))
	var out []string
	for _, l := range all {
		out = append(out, l.Labels[labelExpire])
	}
	return out, err
}

// Normalize is the full form of an image name.
func Normalize(ref string) (string, error) {
	named, err := normalize(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

// ImportArchive reads an archive into the store and returns how many images it names.
func ImportArchive(ctx context.Context, s *Service, path string) (int, error) {
	ctx, done, err := s.lease(s.context(ctx), "test")
	if err != nil {
		return 0, err
	}
	p, err := s.importArchive(ctx, path)
	return len(p.images), errors.Join(err, done(false))
}
