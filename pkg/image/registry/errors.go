// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// ErrCorrupt says that a blob or layer is not what its digest says.
var ErrCorrupt = fmt.Errorf("content does not match its digest: %w", errdefs.ErrDataLoss)

// failure is an error whose text is final and whose class is all that callers can match: what containerd's libraries
// wrapped inside must not decide the status code, nor carry a signed address into a log.
type failure struct {
	text  string
	class error // may be nil: then the status is Unknown
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.class }

// endedError: the pull was cut off, by its caller, by the watch or by Close. Apart, because what a network timeout says
// of itself can't be told from a context's end.
type endedError struct{ cause error }

func (e *endedError) Error() string { return e.cause.Error() }
func (e *endedError) Unwrap() error { return e.cause }

// Ended marks the cause of a pull's end as such.
func Ended(cause error) error { return &endedError{cause} }

var (
	urlQuery    = regexp.MustCompile(`(https?://[^\s"'?]*)\?[^\s"']*`)
	urlUserinfo = regexp.MustCompile(`(https?://)[^\s"'/@]*@`)
)

// Redact takes queries and passwords out of the addresses in an error: blob stores are reached by signed URLs. Errors
// that the libraries joined, often the same one of several layers, become one line.
func Redact(err error) string {
	text := urlUserinfo.ReplaceAllString(urlQuery.ReplaceAllString(err.Error(), "$1"), "$1")
	var lines []string
	seen := map[string]bool{"": true}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// PullError names the image and gives the failure of a pull one class:
// cut off: the context's error; registry not reachable or broken: text starts with cri-api's ErrRegistryUnavailable, no errdefs class;
// 401 ErrUnauthenticated; 403 ErrPermissionDenied; 404 ErrNotFound; digest mismatch ErrDataLoss; else what err has.
func PullError(ref string, err error) error {
	if err == nil {
		return nil
	}
	if ended, ok := errors.AsType[*endedError](err); ok {
		return fmt.Errorf("pull image %q: %w", ref, ended.cause)
	}
	text := fmt.Sprintf("pull image %q: %s", ref, Redact(err))
	switch status := statusOf(err); {
	case errors.Is(err, docker.ErrInvalidAuthorization), status == http.StatusUnauthorized:
		return &failure{fmt.Sprintf("pull image %q: the registry does not accept the credentials, or asks for some: %s", ref, Redact(err)), errdefs.ErrUnauthenticated}
	case status == http.StatusForbidden:
		return &failure{fmt.Sprintf("pull image %q: the registry denies access: %s", ref, Redact(err)), errdefs.ErrPermissionDenied}
	case errors.Is(err, ErrCorrupt): // the libraries have a class of their own for it
		return &failure{text, errdefs.ErrDataLoss}
	case Unavailable(err):
		return &failure{crierrors.ErrRegistryUnavailable.Error() + ": " + text, crierrors.ErrRegistryUnavailable}
	case status == http.StatusNotFound:
		return &failure{text, errdefs.ErrNotFound}
	case status != 0:
		return &failure{text, nil}
	}
	return &failure{text, err}
}

// statusOf is the HTTP status a registry answered, or 0.
func statusOf(err error) int {
	if status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		return status.StatusCode
	}
	return 0
}

// Unavailable says whether no usable answer came. Trying the same again later may work, so what was downloaded is worth keeping.
func Unavailable(err error) bool {
	if status := statusOf(err); status != 0 {
		return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	}
	var (
		request *url.Error
		network net.Error
	)
	// A bare error number is our own disk's; the network's is inside of an error that tells of a connection.
	return errors.As(err, &request) || errors.As(err, &network) && !sys.IsErrno(network) || errors.Is(err, io.ErrUnexpectedEOF)
}
