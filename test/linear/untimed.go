// SPDX-License-Identifier: Apache-2.0

//go:build race

package linear

// Timed tells whether Check compares processor time. The race detector's own
// costs are not linear.
const Timed = false
