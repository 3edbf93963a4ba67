// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is where the blobs of a pull come from: the hosts of its registry, for each blob in the order of how they did.
type Source struct {
	hosts    *Hosts
	resolver remotes.Resolver
	name     string
}

// Resolve asks what a name stands for. A host that said when to come back is asked once more if the others failed too.
func (h *Hosts) Resolve(ctx context.Context, named reference.Named) (Source, ocispec.Descriptor, error) {
	r := h.resolver()
	if _, byDigest := named.(reference.Digested); !byDigest {
		ctx = context.WithValue(ctx, wanted{}, docker.HostCapabilityPull|docker.HostCapabilityResolve)
	}
	name, desc, err := r.Resolve(ctx, named.String())
	if errors.As(err, new(*busyError)) && ctx.Err() == nil && h.several() {
		name, desc, err = r.Resolve(ctx, named.String())
	}
	if err != nil {
		return Source{}, desc, fmt.Errorf("resolve: %w", err)
	}
	return Source{h, r, name}, desc, nil
}

// Fetch opens a blob.
func (s Source) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, from: s, desc: desc}
	return b, b.open()
}

// blob reads a blob, and goes on at another host where one fails. What doesn't need another host for that, a connection
// that breaks, the registry client does by itself.
type blob struct {
	ctx    context.Context //nolint:containedctx // of the reads: io.Reader takes none
	from   Source
	desc   ocispec.Descriptor
	rc     io.ReadCloser
	offset int64
	opened int // times since the last byte
}

func (b *blob) open() error {
	b.opened++
	f, err := b.from.resolver.Fetcher(b.ctx, b.from.name) // knows the hosts in their order of now
	if err != nil {
		return fmt.Errorf("reach registry: %w", err)
	}
	rc, err := f.Fetch(b.ctx, b.desc)
	if err != nil {
		return err
	}
	b.rc = rc
	_, err = b.Seek(b.offset, io.SeekStart)
	return err
}

func (b *blob) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p)
	b.offset += int64(n)
	if n > 0 {
		b.opened = 0
	}
	if err == nil || errors.Is(err, io.EOF) || !b.again(err) {
		return n, err
	}
	if err := b.rc.Close(); err != nil {
		return n, err
	}
	return n, b.open()
}

// again says whether another opening may do better than the one that ended with err. Each asks all hosts, so if not a
// byte came of it they all failed; a host that wants to be asked later, to which another was preferred, is left then.
func (b *blob) again(err error) bool {
	if b.ctx.Err() != nil || !Unavailable(err) || !b.from.hosts.several() {
		return false
	}
	return b.opened == 0 || b.opened == 1 && errors.As(err, new(*busyError))
}

// Seek sets the offset of the next read; the registry client then opens the blob there.
func (b *blob) Seek(offset int64, whence int) (int64, error) {
	s, ok := b.rc.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("fetch %s: registry client can't seek", b.desc.Digest)
	}
	at, err := s.Seek(offset, whence)
	if err == nil {
		b.offset = at
	}
	return at, err
}

func (b *blob) Close() error { return b.rc.Close() }
