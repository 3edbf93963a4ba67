// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"
)

// The classes below carry the marker methods that containerd/errdefs looks for,
// so callers may use errdefs.IsUnavailable and its kin without this package
// depending on it.
type (
	unavailable      struct{ error }
	notFound         struct{ error }
	alreadyExists    struct{ error }
	invalidArgument  struct{ error }
	failedCondition  struct{ error }
	resourceExceeded struct{ error }
)

func (unavailable) Unavailable()            {}
func (notFound) NotFound()                  {}
func (alreadyExists) AlreadyExists()        {}
func (invalidArgument) InvalidParameter()   {}
func (failedCondition) FailedPrecondition() {}
func (resourceExceeded) ResourceExhausted() {}

func (e unavailable) Unwrap() error      { return e.error }
func (e notFound) Unwrap() error         { return e.error }
func (e alreadyExists) Unwrap() error    { return e.error }
func (e invalidArgument) Unwrap() error  { return e.error }
func (e failedCondition) Unwrap() error  { return e.error }
func (e resourceExceeded) Unwrap() error { return e.error }

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

// wireError is an error as it travels in a packet.
type wireError struct {
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

func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Text: err.Error()}
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

func (w *wireError) err() error {
	if w == nil {
		return nil
	}
	text := errors.New(w.Text)
	switch w.Class {
	case classUnavailable:
		return unavailable{text}
	case classNotFound:
		return notFound{text}
	case classExists:
		return alreadyExists{text}
	case classInvalid:
		return invalidArgument{text}
	case classCondition:
		return failedCondition{text}
	case classExhausted:
		return resourceExceeded{text}
	case classLaunch:
		return &LaunchError{ExitCode: w.ExitCode, Stderr: w.Stderr}
	}
	return text
}
