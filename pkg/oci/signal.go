// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const signalPrefix = "SIGNAL_SIG"

// StopSignal returns the signal a container is asked to stop with, as number and as CRI enum (whose values are not
// signal numbers): the config's, else the image's STOPSIGNAL, else SIGTERM. An unknown enum value is
// ErrInvalidArgument; an image's signal that does not parse counts as none, because images can't be mended by the user.
func StopSignal(config *cri.ContainerConfig, imageSignal string) (int, cri.Signal, error) {
	if want := config.GetStopSignal(); want != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		number, ok := signalNumber(want)
		if !ok {
			return 0, 0, refusal.Invalid("stop_signal", "unknown value %d", want)
		}
		return number, want, nil
	}
	number, ok := sys.SignalNumber(imageSignal)
	if ok {
		if signal, ok := signalEnum(number); ok {
			return number, signal, nil
		}
	}
	number, _ = signalNumber(cri.Signal_SIGNAL_SIGTERM)
	return number, cri.Signal_SIGNAL_SIGTERM, nil
}

// signalNumber derives the number from the enum's name: SIGNAL_SIGRTMINPLUS3 is SIGRTMIN+3.
func signalNumber(s cri.Signal) (int, bool) {
	name, ok := strings.CutPrefix(cri.Signal_name[int32(s)], signalPrefix)
	if !ok {
		return 0, false
	}
	return sys.SignalNumber(strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name))
}

// signalEnum prefers the usual name where two enum values share a number.
func signalEnum(number int) (cri.Signal, bool) {
	for value := range int32(len(cri.Signal_name)) {
		s := cri.Signal(value)
		switch s {
		case cri.Signal_SIGNAL_SIGCLD, cri.Signal_SIGNAL_SIGIOT, cri.Signal_SIGNAL_SIGPOLL:
			continue
		}
		if n, ok := signalNumber(s); ok && n == number {
			return s, true
		}
	}
	return 0, false
}
