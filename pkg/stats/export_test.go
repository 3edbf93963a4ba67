// SPDX-License-Identifier: Apache-2.0

package stats

import "time"

type nextRate = func(id string, usage uint64, born, now time.Time) (uint64, bool)

// Rates is a fresh memory of CPU readings.
func Rates() nextRate { return new(rates).next }

// RatesAndSize also tells how many readings are kept.
func RatesAndSize() (nextRate, func() int) {
	r := new(rates)
	return r.next, func() int { return len(r.last) }
}
