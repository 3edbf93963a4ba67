// SPDX-License-Identifier: Apache-2.0

// Package refusal makes the errors that say which field of a request can't be honoured, and why.
//
// An error is of class ErrInvalidArgument when no machine could honour the field, and of ErrFailedPrecondition when this
// one, or the state of the pod, does not allow it. Its text names the field by its path in the CRI message.
package refusal
