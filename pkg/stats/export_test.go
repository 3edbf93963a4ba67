// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type nextRate = func(id string, usage uint64, born, now time.Time) (uint64, bool)

// Rates is a fresh memory of CPU readings.
func Rates() nextRate { return new(rates).next }

// RatesAndSize also tells how many readings are kept.
func RatesAndSize() (nextRate, func() int) {
	r := new(rates)
	return r.next, func() int { return len(r.last) }
}

// NetworkOf is what a /proc/net/dev says.
func NetworkOf(raw []byte, now time.Time) *cri.NetworkUsage {
	return networkUsage(parseInterfaces(raw), now)
}
