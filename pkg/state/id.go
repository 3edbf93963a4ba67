// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/rand"
	"encoding/hex"
)

// IDLength is how many hex digits an id has.
const IDLength = 64

// NewID makes a random id of 64 hex digits, as runtimes and kubelets expect.
// It does not depend on the clock, which may be wrong on a node that just booted.
func NewID() string {
	var b [IDLength / 2]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

func validID(id string) bool {
	if len(id) != IDLength {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
