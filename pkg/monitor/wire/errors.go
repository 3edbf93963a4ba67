// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
)

// The classes below carry the marker methods that containerd/errdefs looks for,
// so callers may use errdefs.IsUnavailable and its kin without this package
// depending on it.
type (
	unavailable        struct{ error }
	notFound           struct{ error }
	alreadyExists      struct{ error }
	invalidArgument    struct{ error }
	failedPrecondition struct{ error }
	resourceExhausted  struct{ error }
)

func (unavailable) Unavailable()               {}
func (notFound) NotFound()                     {}
func (alreadyExists) AlreadyExists()           {}
func (invalidArgument) InvalidParameter()      {}
func (failedPrecondition) FailedPrecondition() {}
func (resourceExhausted) ResourceExhausted()   {}

func (e unavailable) Unwrap() error        { return e.error }
func (e notFound) Unwrap() error           { return e.error }
func (e alreadyExists) Unwrap() error      { return e.error }
func (e invalidArgument) Unwrap() error    { return e.error }
func (e failedPrecondition) Unwrap() error { return e.error }
func (e resourceExhausted) Unwrap() error  { return e.error }

// Unavailable marks an error as one of a peer that is not there, or does not
// answer.
func Unavailable(err error) error { return unavailable{err} }

// NotFound marks an error as one of an object that is not there.
func NotFound(err error) error { return notFound{err} }

// AlreadyExists marks an error as one of an object that is there already.
func AlreadyExists(err error) error { return alreadyExists{err} }

// InvalidArgument marks an error as the caller's.
func InvalidArgument(err error) error { return invalidArgument{err} }

// FailedPrecondition marks an error as one of an object in another state.
func FailedPrecondition(err error) error { return failedPrecondition{err} }

// ResourceExhausted marks an error as one of a limit that was reached.
func ResourceExhausted(err error) error { return resourceExhausted{err} }

// IsNotFound tells whether err has the class.
func IsNotFound(err error) bool { return has[interface{ NotFound() }](err) }

// IsFailedPrecondition tells whether err has the class.
func IsFailedPrecondition(err error) bool { return has[interface{ FailedPrecondition() }](err) }

// ErrRunning is the error of a second monitor on the same directory. Its text is
// what that one says where it was to report readiness.
var ErrRunning = errors.New("another monitor has this directory")

// LaunchError says that the launched program itself failed: nothing of the
// container is left in the monitor.
type LaunchError struct {
	ExitCode int    // of the program; 128+n when signal n ended it
	Stderr   string // the end of what it wrote there, at most 4 KiB; empty for Exec, whose stderr is the caller's
}

func (e *LaunchError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("exit status %d", e.ExitCode)
	}
	return fmt.Sprintf("exit status %d: %s", e.ExitCode, e.Stderr)
}

// Error is an error as it travels in a packet.
type Error struct {
	Class    string `json:"class,omitempty"`
	Text     string `json:"text"`
	ExitCode int    `json:"exit_code,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
}

// The classes' names on the wire.
const (
	classUnavailable = "unavailable"
	classNotFound    = "not_found"
	classExists      = "already_exists"
	classInvalid     = "invalid_argument"
	classCondition   = "failed_precondition"
	classExhausted   = "resource_exhausted"
	classLaunch      = "launch"
)

// NewError is err as it travels, nil for nil.
func NewError(err error) *Error {
	if err == nil {
		return nil
	}
	w := &Error{Text: err.Error()}
	if l, ok := errors.AsType[*LaunchError](err); ok {
		w.Class, w.ExitCode, w.Stderr = classLaunch, l.ExitCode, l.Stderr
		return w
	}
	for class, is := range map[string]func(error) bool{
		classUnavailable: has[interface{ Unavailable() }],
		classNotFound:    has[interface{ NotFound() }],
		classExists:      has[interface{ AlreadyExists() }],
		classInvalid:     has[interface{ InvalidParameter() }],
		classCondition:   has[interface{ FailedPrecondition() }],
		classExhausted:   has[interface{ ResourceExhausted() }],
	} {
		if is(err) {
			w.Class = class
		}
	}
	return w
}

func has[T any](err error) bool {
	var class T
	return errors.As(err, &class)
}

// Err is the error that travelled, with its class; nil for nil.
func (w *Error) Err() error {
	if w == nil {
		return nil
	}
	text := errors.New(w.Text)
	switch w.Class {
	case classUnavailable:
		return Unavailable(text)
	case classNotFound:
		return NotFound(text)
	case classExists:
		return AlreadyExists(text)
	case classInvalid:
		return InvalidArgument(text)
	case classCondition:
		return FailedPrecondition(text)
	case classExhausted:
		return ResourceExhausted(text)
	case classLaunch:
		return &LaunchError{ExitCode: w.ExitCode, Stderr: w.Stderr}
	}
	return text
}
