// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const ownOOMScoreAdj = "/proc/self/oom_score_adj"

// UnprotectChild gives the child pid that was just started its ordinary place with the OOM killer, where this process has
// a protected one: children inherit that, and a plugin or runtime that eats the node's memory must not be the last to go.
// The child runs already, so call it at once: what the child starts before that inherits our value for its short life.
// What cannot be done is left; the child may have ended.
func UnprotectChild(pid int) {
	own, err := os.ReadFile(ownOOMScoreAdj)
	if err != nil || !strings.HasPrefix(string(own), "-") {
		return
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0)
}

// Unprotected runs start with the ordinary place for this process itself, for a library that starts programs which stay
// and does not say which: they inherit it from their first moment. The error is that of start, or says that the process
// has not got its protection back.
func Unprotected(start func() error) error {
	own, err := os.ReadFile(ownOOMScoreAdj)
	if err != nil || !strings.HasPrefix(string(own), "-") || os.WriteFile(ownOOMScoreAdj, []byte("0"), 0) != nil {
		return start()
	}
	err = start()
	if back := os.WriteFile(ownOOMScoreAdj, own, 0); back != nil {
		err = errors.Join(err, fmt.Errorf("restore own oom_score_adj %s: %w", strings.TrimSpace(string(own)), back))
	}
	return err
}
