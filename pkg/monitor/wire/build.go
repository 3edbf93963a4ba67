// SPDX-License-Identifier: Apache-2.0

package wire

// Build says which build of cri-monitor a binary or a process is.
type Build struct {
	Version string `json:"version,omitempty"` // as people call it; it orders nothing
	ID      string `json:"id,omitempty"`      // differs when the bytes of the binary do
	Time    int64  `json:"time,omitempty"`    // of the source, in seconds since 1970; 0: not known
}

// Replaces tells whether a binary of build b is to take over from a monitor of the
// build that runs: any other one, unless its source is known to be older. nil is a
// monitor that says nothing of itself, which is older; a nil b replaces nothing.
func (b *Build) Replaces(running *Build) bool {
	switch {
	case b == nil || b.ID == "":
		return false
	case running == nil || running.ID == "":
		return true
	case b.ID == running.ID:
		return false
	}
	return b.Time == 0 || running.Time == 0 || b.Time >= running.Time
}
