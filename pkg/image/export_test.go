// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
)

// GuardedHandler and GuardedApplier make errors of panics.
func GuardedHandler(h images.Handler) images.Handler { return guardedHandler(h) }
func GuardedApplier(a diff.Applier) diff.Applier     { return guardedApplier{a} }

// PanicAt makes the store panic when it is to record an image of that name.
func PanicAt(s *Service, name string) { s.images = panicky{s.images, name} }

type panicky struct {
	images.Store

	name string
}

// Create panics at the name.
func (p panicky) Create(ctx context.Context, img images.Image) (images.Image, error) {
	if img.Name == p.name {
		panic("index out of range")
	}
	return p.Store.Create(ctx, img)
}

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
