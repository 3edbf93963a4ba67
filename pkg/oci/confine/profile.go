// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const localhostPrefix = "localhost/"

// Profile reads a security profile from its message or, where that is not set, from the deprecated string before it.
// nil means that nothing was asked for.
func Profile(field string, p *cri.SecurityProfile, deprecated string) (*cri.SecurityProfile, error) {
	if p == nil {
		return deprecatedProfile(field, deprecated)
	}
	switch p.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault, cri.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			return nil, refusal.Invalid(field+".localhost_ref", "set for profile type %s", p.GetProfileType())
		}
	case cri.SecurityProfile_Localhost:
		if p.GetLocalhostRef() == "" || strings.ContainsRune(p.GetLocalhostRef(), 0) {
			return nil, refusal.Invalid(field+".localhost_ref", "no profile named")
		}
	default:
		return nil, refusal.Invalid(field+".profile_type", "unknown value %d", p.GetProfileType())
	}
	return p, nil
}

func deprecatedProfile(field, name string) (*cri.SecurityProfile, error) {
	switch name {
	case "":
		return nil, nil
	case "runtime/default", "docker/default":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, nil
	case "unconfined":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	}
	ref, ok := strings.CutPrefix(name, localhostPrefix)
	if !ok || ref == "" || strings.ContainsRune(ref, 0) {
		return nil, refusal.Invalid(field, "unknown profile %q", name)
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}, nil
}
