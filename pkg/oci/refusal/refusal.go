// SPDX-License-Identifier: Apache-2.0

package refusal

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// refusal is why a field can't be honoured. Its class is not in its text: several are told in one sentence.
type refusal struct {
	text  string
	class error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.class }

// Invalid refuses what no machine could do.
func Invalid(field, format string, args ...any) error {
	return &refusal{fmt.Sprintf("honour %s: %s", field, fmt.Sprintf(format, args...)), errdefs.ErrInvalidArgument}
}

// Unmet refuses what this machine, or the state of the pod, does not allow.
func Unmet(field, format string, args ...any) error {
	return &refusal{fmt.Sprintf("honour %s: %s", field, fmt.Sprintf(format, args...)), errdefs.ErrFailedPrecondition}
}

// AllOf returns one error that tells all of errs, or nil when there are none. They are refusals by Invalid.
func AllOf(errs ...error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if texts == nil {
		return nil
	}
	return &refusal{strings.Join(texts, "; "), errdefs.ErrInvalidArgument}
}
