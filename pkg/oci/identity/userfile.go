// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const (
	// userFileMax bounds the /etc/passwd and /etc/group that are read from an image, in bytes. Images are not trusted;
	// ten thousand accounts fit in.
	userFileMax = 1 << 20
	// linesPerLook is after how many lines of a file the context is looked at.
	linesPerLook = 1024
)

// account is what /etc/passwd says of a user: see passwd(5).
type account struct {
	name     string // "" for a number that has no line
	uid, gid uint32
	home     string // never empty
}

// findAccount returns the first line of the image's /etc/passwd that has the name, or the uid if name is a number; ""
// is root. A number needs no line.
func findAccount(ctx context.Context, open OpenFunc, name string) (account, error) {
	file, err := readUserFile(open, "/etc/passwd")
	if err != nil {
		return account{}, err
	}
	uid, numeric, err := number(name)
	if err != nil {
		return account{}, err
	}
	numeric = numeric || name == ""
	who, found := account{uid: uid, home: "/"}, false
	err = eachLine(ctx, file, func(line []byte) (bool, error) {
		var f [6][]byte // name, password, uid, gid, comment, home
		fields(line, f[:])
		if !numeric && string(f[0]) != name {
			return true, nil
		}
		has, err := idOf(f[2])
		if numeric && (err != nil || has != uid) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("uid of user %q in the image's /etc/passwd: %w", f[0], err)
		}
		found = true
		who, err = newAccount(has, f)
		return false, err
	})
	if err == nil && !found && !numeric {
		err = fmt.Errorf("no user %q in the image's /etc/passwd", name)
	}
	return who, err
}

// newAccount reads what is not needed to find the line. A line that ends before the group means group 0, as in other
// runtimes.
func newAccount(uid uint32, f [6][]byte) (account, error) {
	who := account{name: string(f[0]), uid: uid, home: "/"}
	if len(f[5]) > 0 {
		who.home = string(f[5])
	}
	if bytes.IndexByte(f[5], 0) >= 0 {
		return who, fmt.Errorf("home of user %q in the image's /etc/passwd holds a NUL", f[0])
	}
	if len(f[3]) == 0 {
		return who, nil
	}
	gid, err := idOf(f[3])
	if err != nil {
		return who, fmt.Errorf("gid of user %q in the image's /etc/passwd: %w", f[0], err)
	}
	who.gid = gid
	return who, nil
}

// groupQuery asks for the gid of a group, and for those of the groups that list a member; "" asks for neither.
type groupQuery struct{ name, member string }

type groupAnswer struct {
	named       uint32
	memberships []uint32 // in the order of the file, possibly twice
}

// findGroups looks through the image's /etc/group once: see group(5). A name that is a number needs no line.
func findGroups(ctx context.Context, open OpenFunc, q groupQuery) (groupAnswer, error) {
	var a groupAnswer
	gid, numeric, err := number(q.name)
	if err != nil {
		return a, err
	}
	a.named = gid
	found := numeric || q.name == ""
	if found && q.member == "" {
		return a, nil
	}
	file, err := readUserFile(open, "/etc/group")
	if err != nil {
		return a, err
	}
	err = eachLine(ctx, file, func(line []byte) (bool, error) {
		var f [4][]byte // name, password, gid, members
		fields(line, f[:])
		sought := !found && string(f[0]) == q.name
		member := q.member != "" && lists(f[3], q.member)
		if !sought && !member {
			return true, nil
		}
		gid, err := idOf(f[2])
		if err != nil {
			return false, fmt.Errorf("gid of group %q in the image's /etc/group: %w", f[0], err)
		}
		if sought {
			found, a.named = true, gid
		}
		if member {
			a.memberships = append(a.memberships, gid)
		}
		return !found || q.member != "", nil
	})
	if err == nil && !found {
		err = fmt.Errorf("no group %q in the image's /etc/group", q.name)
	}
	return a, err
}

// number reads an id that is given instead of a name. Digits with or without a sign are always a number and never a
// name: the error says that it is out of range.
func number(s string) (id uint32, numeric bool, err error) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	id, err = idOf([]byte(s))
	return id, true, err
}

// idOf holds ids to the range that Kubernetes and the runtimes share.
func idOf(s []byte) (uint32, error) {
	id, err := strconv.ParseInt(string(s), 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	if err != nil || id < 0 || id > math.MaxInt32 {
		return 0, fmt.Errorf("%.40s is outside 0-%d", s, math.MaxInt32)
	}
	return uint32(id), nil
}

// lists tells whether a list with commas has the name in it.
func lists(list []byte, name string) bool {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, []byte(","))
		if string(item) == name {
			return true
		}
	}
	return false
}

// fields fills out with what is between the colons of a line; a short line leaves the last ones empty.
func fields(line []byte, out [][]byte) {
	for i := range out {
		out[i], line, _ = bytes.Cut(line, []byte(":"))
	}
}

// eachLine calls do with each line that is neither empty nor a comment, until it returns false or an error.
func eachLine(ctx context.Context, file []byte, do func(line []byte) (more bool, err error)) error {
	for n := 0; len(file) > 0; n++ {
		if n%linesPerLook == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var line []byte
		line, file, _ = bytes.Cut(file, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if more, err := do(line); err != nil || !more {
			return err
		}
	}
	return nil
}

// readUserFile returns nothing for a file the image does not have: images from scratch have neither.
func readUserFile(open OpenFunc, path string) ([]byte, error) {
	f, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the image's %s: %w", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, userFileMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the image's %s: %w", path, err)
	}
	if len(raw) > userFileMax {
		return nil, fmt.Errorf("the image's %s is larger than %d bytes, which is more than users are looked up in", path, userFileMax)
	}
	return raw, nil
}

// named says which field could not be honoured. What is wrong with the content of an image's files makes the request
// one that can't be honoured; that a file can't be read, or that the daemon shuts down, does not.
func named(field string, err error) error {
	var unread *fs.PathError
	if errors.As(err, &unread) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("apply %s: %w", field, err)
	}
	return refusal.Invalid(field, "%v", err)
}
