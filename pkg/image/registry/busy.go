// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	shortestWait = time.Second          // between two requests of one that a registry puts off; dates have no fractions
	longestWait  = 365 * 24 * time.Hour // any longer one is as good as for ever
)

// busyError is a registry's word to come back later: later than the pull has patience for, or another host is there.
// It is no timeout to the registry client, which therefore doesn't ask again at once.
type busyError struct {
	host, status string
	wait         time.Duration
}

func (e *busyError) Error() string {
	return fmt.Sprintf("%s answers %s and wants to be asked again in %s", e.host, e.status, e.wait)
}

// putOff says how long an answer wants a client to wait (RFC 9110, 10.2.3), false if it doesn't say. Dates count from the
// answer's own, whatever this node's clock says.
func putOff(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	text := resp.Header.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil {
		wait = time.Duration(min(seconds, uint64(longestWait/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		now, err := http.ParseTime(resp.Header.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		wait = min(at.Sub(now), longestWait)
	} else {
		return 0, false
	}
	return max(wait, shortestWait), true
}
