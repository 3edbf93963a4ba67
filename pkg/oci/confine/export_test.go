// SPDX-License-Identifier: Apache-2.0

package confine

// RelabelTree is Relabel on whatever kernel: labels are extended attributes.
var RelabelTree = relabelTree
