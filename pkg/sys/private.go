// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
)

// MakePrivateDir makes a directory that only root and the group gid can get
// through: what is below may be anybody's to read, to write, or to run as
// another user, and is so in containers only. Idempotent.
func MakePrivateDir(gid int, path string) error {
	err := os.MkdirAll(path, 0o711)
	if err == nil {
		err = os.Chown(path, 0, gid)
	}
	if err == nil {
		err = os.Chmod(path, 0o710) // past the umask, and also where an older version made it
	}
	if err != nil {
		return fmt.Errorf("make private directory: %w", err)
	}
	return nil
}
