// SPDX-License-Identifier: Apache-2.0

// Package tree measures, copies and removes directory trees that untrusted users
// made: a container, an image.
//
// A tree may be of any depth and width and, unless a function says otherwise, may
// change meanwhile. Descriptors and memory are bounded, no symbolic link is
// followed and no mount entered: what is outside of a tree is neither counted
// nor removed. Each call ends with its context.
//
// The package opens directories by descriptors of the ones above and builds no
// paths; it does not unpack archives and keeps nothing between calls.
package tree
