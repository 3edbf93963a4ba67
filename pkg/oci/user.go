// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// userFileMax bounds the /etc/passwd and /etc/group that are read from an image, in bytes. Images are not trusted.
const userFileMax = 8 << 20

// OpenFunc opens a regular file of an image by its absolute path within it, and never one outside. A missing file is
// fs.ErrNotExist. OpenIn makes one for a directory.
type OpenFunc func(path string) (io.ReadCloser, error)

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

func (u User) spec() specs.User {
	return specs.User{UID: u.UID, GID: u.GID, AdditionalGids: slices.Clone(u.Groups)}
}

// ResolveUser works out who the container runs as: the security context's user, else the image's USER ("name", "uid",
// either with ":group"), else root. Names are looked up in the image, and one that is not there is ErrInvalidArgument.
// The policy Merge adds the groups that the image's /etc/group lists the user in. The primary group is always among the
// supplementary ones: files that a group is denied by mode bits would open up to its members otherwise.
func ResolveUser(open OpenFunc, imageUser string, sc *cri.LinuxContainerSecurityContext) (User, error) {
	if err := validateUser(sc); err != nil {
		return User{}, err
	}
	wanted, field := userSpec(imageUser, sc)
	passwd, err := readUserFile(open, "/etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := readUserFile(open, "/etc/group")
	if err != nil {
		return User{}, err
	}
	found, err := user.GetExecUser(wanted, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, invalid(field, "%v", err)
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: found.Home}
	if g := sc.GetRunAsGroup(); g != nil {
		u.GID = uint32(g.Value)
	}
	if u.Home == "" {
		u.Home = "/"
	}
	u.Groups = []uint32{u.GID}
	if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge {
		member, err := memberships(wanted, u.UID, passwd, group)
		if err != nil {
			return User{}, invalid(field, "%v", err)
		}
		u.addGroups(member)
	}
	u.addGroups(sc.GetSupplementalGroups())
	return u, nil
}

func (u *User) addGroups(groups []int64) {
	for _, g := range groups {
		if !slices.Contains(u.Groups, uint32(g)) {
			u.Groups = append(u.Groups, uint32(g))
		}
	}
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

// memberships returns the groups that list the user. The name is that of the first passwd line with the uid or, for a
// user given by name, that name: a uid may have several.
func memberships(wanted string, uid uint32, passwd, group []byte) ([]int64, error) {
	name, _, _ := strings.Cut(wanted, ":")
	if _, err := strconv.Atoi(name); err == nil || name == "" {
		users, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool { return u.Uid == int(uid) })
		if err != nil {
			return nil, fmt.Errorf("parse image's /etc/passwd: %w", err)
		}
		if len(users) == 0 {
			return nil, nil
		}
		name = users[0].Name
	}
	groups, err := user.ParseGroupFilter(bytes.NewReader(group), func(g user.Group) bool {
		return slices.Contains(g.List, name) && g.Gid >= 0 && g.Gid <= math.MaxInt32
	})
	if err != nil {
		return nil, fmt.Errorf("parse image's /etc/group: %w", err)
	}
	var gids []int64
	for _, g := range groups {
		gids = append(gids, int64(g.Gid))
	}
	return gids, nil
}

// readUserFile returns nothing for a file the image does not have: images from scratch have neither.
func readUserFile(open OpenFunc, path string) ([]byte, error) {
	f, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read image's %s: %w", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, userFileMax+1))
	if err != nil {
		return nil, fmt.Errorf("read image's %s: %w", path, err)
	}
	if len(raw) > userFileMax {
		return nil, invalid("image", "%s is larger than %d bytes", path, userFileMax)
	}
	return raw, nil
}

func validateUser(sc *cri.LinuxContainerSecurityContext) error {
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return invalid("linux.security_context.run_as_username", "set together with run_as_user")
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return invalid("linux.security_context.run_as_group", "set without a user")
	}
	if strings.Contains(sc.GetRunAsUsername(), ":") {
		return invalid("linux.security_context.run_as_username", "%q holds a colon", sc.GetRunAsUsername())
	}
	if _, ok := cri.SupplementalGroupsPolicy_name[int32(sc.GetSupplementalGroupsPolicy())]; !ok {
		return invalid("linux.security_context.supplemental_groups_policy", "unknown value %d", sc.GetSupplementalGroupsPolicy())
	}
	return validateIDs(sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups())
}

// validateIDs holds ids to the range Kubernetes and the runtimes share.
func validateIDs(uid, gid *cri.Int64Value, groups []int64) error {
	if v := uid.GetValue(); v < 0 || v > math.MaxInt32 {
		return invalid("linux.security_context.run_as_user", "%d is outside 0-%d", v, math.MaxInt32)
	}
	if v := gid.GetValue(); v < 0 || v > math.MaxInt32 {
		return invalid("linux.security_context.run_as_group", "%d is outside 0-%d", v, math.MaxInt32)
	}
	for _, g := range groups {
		if g < 0 || g > math.MaxInt32 {
			return invalid("linux.security_context.supplemental_groups", "%d is outside 0-%d", g, math.MaxInt32)
		}
	}
	return nil
}
