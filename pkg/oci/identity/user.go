// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

// User is the identity of a container's first process.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups, the primary one first
	Home     string   // from the image, "/" for a user it does not know
}

// CRI returns the identity as container statuses carry it.
func (u User) CRI() *cri.ContainerUser {
	groups := make([]int64, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int64(g)
	}
	return &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID), SupplementalGroups: groups}}
}

// Spec returns the identity as OCI specs carry it.
func (u User) Spec() specs.User {
	return specs.User{UID: u.UID, GID: u.GID, AdditionalGids: slices.Clone(u.Groups)}
}

// maxGroups is how many supplementary groups the kernel gives a process (NGROUPS_MAX).
const maxGroups = 1 << 16

// Resolve works out who the container runs as: the security context's user, else the image's USER ("name", "uid",
// either with ":group"), else root. Names are looked up in the image. One that is not there, an id that is not within
// 0-2147483647, wherever it is from, and more groups than a process can have are ErrInvalidArgument. The policy Merge
// adds the groups that the image's /etc/group lists the user in. The primary group is always among the supplementary
// ones: files that a group is denied by mode bits would open up to its members otherwise.
func Resolve(ctx context.Context, open OpenFunc, imageUser string, sc *cri.LinuxContainerSecurityContext) (User, error) {
	if err := Validate(sc); err != nil {
		return User{}, err
	}
	wanted, field := userSpec(imageUser, sc)
	name, groupName, err := splitUser(wanted)
	if err != nil {
		return User{}, refusal.Invalid(field, "%v", err)
	}
	who, err := findAccount(ctx, open, name)
	if err != nil {
		return User{}, named(field, err)
	}
	lookFor := groupQuery{name: groupName}
	if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge {
		lookFor.member = who.name
	}
	groups, err := findGroups(ctx, open, lookFor)
	if err != nil {
		return User{}, named(field, err)
	}
	u := User{UID: who.uid, GID: who.gid, Home: who.home}
	switch {
	case sc.GetRunAsGroup() != nil:
		u.GID = uint32(sc.GetRunAsGroup().Value)
	case groupName != "":
		u.GID = groups.named
	}
	u.Groups = Groups(u.GID, groups.memberships, sc.GetSupplementalGroups())
	if len(u.Groups) > maxGroups {
		return User{}, refusal.Invalid(field, "the user is in %d groups, and a process can be in %d", len(u.Groups), maxGroups)
	}
	return u, nil
}

// Groups returns the groups in their order, the primary one first, each once.
func Groups(primary uint32, member []uint32, asked []int64) []uint32 {
	out, seen := []uint32{primary}, map[uint32]bool{primary: true}
	add := func(gid uint32) {
		if !seen[gid] {
			seen[gid] = true
			out = append(out, gid)
		}
	}
	for _, gid := range member {
		add(gid)
	}
	for _, gid := range asked {
		add(uint32(gid))
	}
	return out
}

// userSpec returns the user in image syntax, and the field it is from.
func userSpec(imageUser string, sc *cri.LinuxContainerSecurityContext) (spec, field string) {
	if name := sc.GetRunAsUsername(); name != "" {
		return name, "linux.security_context.run_as_username"
	}
	if uid := sc.GetRunAsUser(); uid != nil {
		return strconv.FormatInt(uid.Value, 10), "linux.security_context.run_as_user"
	}
	return imageUser, "image's user"
}

// splitUser reads "user:group", of which both parts are optional, and refuses numbers that are no ids.
func splitUser(spec string) (name, group string, err error) {
	name, group, _ = strings.Cut(spec, ":")
	group, _, _ = strings.Cut(group, ":")
	for _, part := range []string{name, group} {
		if _, numeric, err := number(part); numeric && err != nil {
			return "", "", fmt.Errorf("%q: %w", spec, err)
		}
	}
	return name, group, nil
}

// Validate checks what a container's security context says of users and groups, by itself.
func Validate(sc *cri.LinuxContainerSecurityContext) error {
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return refusal.Invalid("linux.security_context.run_as_username", "set together with run_as_user")
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return refusal.Invalid("linux.security_context.run_as_group", "set without a user")
	}
	if strings.Contains(sc.GetRunAsUsername(), ":") {
		return refusal.Invalid("linux.security_context.run_as_username", "%q holds a colon", sc.GetRunAsUsername())
	}
	if err := ValidateGroupsPolicy(sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	return ValidateIDs(sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups())
}

// ValidateGroupsPolicy refuses a policy that there is not.
func ValidateGroupsPolicy(p cri.SupplementalGroupsPolicy) error {
	if _, ok := cri.SupplementalGroupsPolicy_name[int32(p)]; !ok {
		return refusal.Invalid("linux.security_context.supplemental_groups_policy", "unknown value %d", p)
	}
	return nil
}

// ValidateIDs holds ids to the range Kubernetes and the runtimes share.
func ValidateIDs(uid, gid *cri.Int64Value, groups []int64) error {
	if v := uid.GetValue(); v < 0 || v > math.MaxInt32 {
		return refusal.Invalid("linux.security_context.run_as_user", "%d is outside 0-%d", v, math.MaxInt32)
	}
	if v := gid.GetValue(); v < 0 || v > math.MaxInt32 {
		return refusal.Invalid("linux.security_context.run_as_group", "%d is outside 0-%d", v, math.MaxInt32)
	}
	if len(groups) > maxGroups {
		return refusal.Invalid("linux.security_context.supplemental_groups", "%d groups, and a process can be in %d", len(groups), maxGroups)
	}
	for _, g := range groups {
		if g < 0 || g > math.MaxInt32 {
			return refusal.Invalid("linux.security_context.supplemental_groups", "%d is outside 0-%d", g, math.MaxInt32)
		}
	}
	return nil
}
