// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image/manifest"
	"github.com/cri-shim/cri-shim/pkg/image/registry"
)

const (
	leaseTime     = 24 * time.Hour // how long what a failed pull downloaded is kept for the next one
	labelLeaseRef = "cri-shim.io/ref"
	labelExpire   = "containerd.io/gc.expire"
)

// Pull names an image and who asks for it.
type Pull struct {
	Ref  string
	Auth *cri.AuthConfig // nil = anonymous
}

// flightKey tells apart what callers share one download of.
type flightKey struct {
	ref  string
	auth [sha256.Size]byte
}

var errClosing = fmt.Errorf("image store is closing: %w", errdefs.ErrUnavailable)

// Pull brings an image onto the node and returns its id. Calls for the same image with the same credentials share one
// download. It ends when ctx does; what was downloaded is kept for a day, and the next call goes on from there.
// Errors name the image; their classes are listed at [registry.PullError]. The registry is always asked, also for what is present:
// that is how a moved tag and a withdrawn right are seen.
func (s *Service) Pull(ctx context.Context, p Pull) (string, error) {
	named, err := normalize(p.Ref)
	if err != nil {
		return "", fmt.Errorf("pull image: %w", err)
	}
	creds, err := registry.ParseAuth(p.Auth)
	if err != nil {
		return "", fmt.Errorf("pull image %q: %w", p.Ref, err)
	}
	id, err := s.flights.Do(ctx, flightKey{named.String(), creds.Fingerprint()}, func(ctx context.Context) (string, error) {
		return s.pull(s.context(ctx), named, creds)
	})
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = registry.Ended(err)
	}
	return id, registry.PullError(p.Ref, err)
}

func (s *Service) pull(ctx context.Context, named reference.Named, creds registry.Credentials) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := registry.NewWatch(s.progressTimeout, cancel)
	defer w.Close()
	ctx, done, err := s.lease(ctx, named.String())
	if err != nil {
		return "", err
	}
	id, err := guarded(ctx, func(ctx context.Context) (string, error) {
		return s.pullFrom(ctx, registry.NewHosts(ctx, s.registryConfig, creds, w, s.log), named)
	})
	if err != nil && ctx.Err() != nil {
		err = registry.Ended(context.Cause(ctx))
	}
	// Only what may go on later keeps its partial blobs.
	keep := err != nil && (ctx.Err() != nil || registry.Unavailable(err))
	if cerr := done(keep); cerr != nil {
		s.log.WarnContext(ctx, "clean up after pull", "image", named.String(), "err", registry.Redact(cerr))
	}
	return id, err
}

func (s *Service) pullFrom(ctx context.Context, h *registry.Hosts, named reference.Named) (string, error) {
	src, desc, err := h.Resolve(ctx, named)
	if err != nil {
		return "", err
	}
	return s.install(ctx, src, desc, named, nil)
}

// install fetches and unpacks one image and records it under its names. The context must carry a lease.
func (s *Service) install(ctx context.Context, f remotes.Fetcher, root ocispec.Descriptor, named reference.Named, labels map[string]string) (string, error) {
	sel, err := manifest.Choose(ctx, s.content, f, root, s.log)
	if err != nil {
		return "", err
	}
	if err := s.unpack(ctx, f, root, sel); err != nil {
		return "", err
	}
	img := installed{target: root, manifest: sel.Manifest.Digest, config: sel.Config.Digest, chain: sel.Chain, extra: labels}
	if img.size, err = s.diskSize(ctx, sel); err != nil {
		return "", err
	}
	id := sel.Config.Digest.String()
	if err := s.record(ctx, names(named, root.Digest, id), img); err != nil {
		return "", err
	}
	return id, s.pin(ctx, sel.Chain.String())
}

// lease protects what a pull brings with the returned context from garbage collection, for as long as it runs. The
// returned func ends it and all that earlier pulls of the name left, and frees what no image uses; with keep, what it holds
// stays for a day, so that a later pull finds the partial blobs.
func (s *Service) lease(ctx context.Context, ref string) (context.Context, func(keep bool) error, error) {
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(ref)))
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithLabel(labelLeaseRef, key))
	if err != nil {
		return ctx, nil, fmt.Errorf("make lease: %w", err)
	}
	s.working.Store(l.ID, true)
	return leases.WithLease(ctx, l.ID), func(keep bool) error {
		ctx, cancel := s.cleanupContext(ctx)
		defer cancel()
		defer s.working.Delete(l.ID)
		if keep {
			return s.shelve(ctx, l)
		}
		return errors.Join(s.endLeases(ctx, key, l.ID), s.GC(ctx))
	}, nil
}

// shelve exchanges the lease of a pull that has ended for one that expires. A running pull's does not: it would expire
// by the wall clock, and a clock that is set a day forward (it starts in 1970 on a machine without a battery) would
// take from the pull what it has.
func (s *Service) shelve(ctx context.Context, l leases.Lease) error {
	held, err := s.leases.ListResources(ctx, l)
	if err != nil {
		return fmt.Errorf("shelve lease: %w", err)
	}
	if len(held) == 0 {
		return s.leases.Delete(ctx, l)
	}
	err = s.meta.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		expiring, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithLabels(l.Labels), leases.WithExpiration(leaseTime))
		for _, r := range held {
			if err == nil {
				err = s.leases.AddResource(ctx, expiring, r)
			}
		}
		if err != nil {
			return err
		}
		return s.leases.Delete(ctx, l)
	})
	if err != nil {
		return fmt.Errorf("shelve lease: %w", err)
	}
	return nil
}

// shelveAll does that for the leases of pulls that died with the last daemon.
func (s *Service) shelveAll(ctx context.Context) error {
	all, err := s.leases.List(ctx)
	for _, l := range all {
		if l.Labels[labelLeaseRef] != "" && l.Labels[labelExpire] == "" {
			err = errors.Join(err, s.shelve(ctx, l))
		}
	}
	return err
}

// endLeases drops a lease and those that failed pulls of the same name left, but not those of pulls that run.
func (s *Service) endLeases(ctx context.Context, key, own string) error {
	all, err := s.leases.List(ctx, fmt.Sprintf("labels.%q==%s", labelLeaseRef, key))
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range all {
		if _, busy := s.working.Load(l.ID); busy && l.ID != own {
			continue
		}
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end lease: %w", err)
		}
	}
	return nil
}
