// SPDX-License-Identifier: Apache-2.0

package sys

// Told reads one record of the kernel's log.
func (v OOMVictim) Told(record []byte) bool { return v.told(record) }

// What the facts are made of.
func BoundingSet() ([]string, error)  { return boundingSet() }
func EffectiveSet() ([]string, error) { return effectiveSet() }
