// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

var (
	wholeID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)
	idStart = regexp.MustCompile(`^(sha256:)?[0-9a-f]{1,64}$`)
)

// normalize gives the full form of an image name: short names belong to docker.io/library, a name without tag and
// digest means latest, and a digest beats a tag. ErrInvalidArgument for what is no image name.
func normalize(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("parse image name %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return named, nil
}

// names lists the records an image is stored under: as asked for, by digest, by id.
func names(named reference.Named, target digest.Digest, id string) []string {
	out := []string{id}
	if named == nil {
		return out
	}
	if _, byDigest := named.(reference.Digested); !byDigest {
		out = append(out, named.String())
	}
	return append(out, reference.TrimNamed(named).String()+"@"+target.String())
}
