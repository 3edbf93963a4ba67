// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strconv"
	"strings"
)

// UnprotectChild gives the child pid that was just started its ordinary place with the OOM killer, where this process has
// a protected one: children inherit that, and a plugin or runtime that eats the node's memory must not be the last to go.
// The child runs already, so call it at once: what the child starts before that inherits our value for its short life.
// What cannot be done is left; the child may have ended.
func UnprotectChild(pid int) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil || !strings.HasPrefix(string(own), "-") {
		return
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0)
}
