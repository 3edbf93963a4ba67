// SPDX-License-Identifier: Apache-2.0

package oci

// KeepProfile is Live's AppArmorDefault on a kernel and with a parser of the test.
func KeepProfile(loaded func(string) (bool, error), load func() error) func(bool) (string, error) {
	return (&keptProfile{loaded: loaded, load: load}).use
}

// RelabelTree is Relabel on whatever kernel: labels are extended attributes.
var RelabelTree = relabelTree
