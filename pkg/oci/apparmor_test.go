// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
)

const (
	runtimeDefault = cri.SecurityProfile_RuntimeDefault
	unconfined     = cri.SecurityProfile_Unconfined
	localhost      = cri.SecurityProfile_Localhost
)

// TestAppArmor: each way to ask for a profile, on each kind of machine, for a container that may do little and for one
// that is privileged. "!" is an error that names the field.
func TestAppArmor(t *testing.T) {
	const def, bad = confine.DefaultAppArmor, "!"
	for _, c := range []struct {
		name       string
		message    *cri.SecurityProfile
		deprecated string
		loaded     string // the default profile can be had
		never      string // it never could
		lost       string // it could once
		without    string // kernel without AppArmor
		privileged string // it can be had, and the container is privileged
	}{
		{"nothing said", nil, "", def, "", bad, "", ""},
		{"default", &cri.SecurityProfile{ProfileType: runtimeDefault}, "", def, bad, bad, bad, ""},
		{"default, deprecated", nil, "runtime/default", def, bad, bad, bad, ""},
		{"default, older still", nil, "docker/default", def, bad, bad, bad, ""},
		{"unconfined", &cri.SecurityProfile{ProfileType: unconfined}, "", "", "", "", "", ""},
		{"unconfined, deprecated", nil, "unconfined", "", "", "", "", ""},
		{"localhost", &cri.SecurityProfile{ProfileType: localhost, LocalhostRef: "loaded"}, "", "loaded", "loaded", "loaded", bad, "loaded"},
		{"localhost, prefixed", &cri.SecurityProfile{ProfileType: localhost, LocalhostRef: "localhost/loaded"}, "", "loaded", "loaded", "loaded", bad, "loaded"},
		{"localhost, deprecated", nil, "localhost/loaded", "loaded", "loaded", "loaded", bad, "loaded"},
		{"localhost, not loaded", &cri.SecurityProfile{ProfileType: localhost, LocalhostRef: "other"}, "", bad, bad, bad, bad, bad},
		{"the message wins", &cri.SecurityProfile{ProfileType: unconfined}, "localhost/other", "", "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for machine, want := range map[string]string{"loaded": c.loaded, "never": c.never, "lost": c.lost, "without": c.without, "privileged": c.privileged} {
				in := onAppArmor(machine)
				security(&in).Apparmor, security(&in).ApparmorProfile = c.message, c.deprecated
				spec, err := oci.Container(in)
				switch {
				case want == bad && (!errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "apparmor")):
					t.Errorf("%s: error is %v", machine, err)
				case want != bad && err != nil:
					t.Errorf("%s: %v", machine, err)
				case want != bad && spec.Process.ApparmorProfile != want:
					t.Errorf("%s: profile is %q, want %q", machine, spec.Process.ApparmorProfile, want)
				}
			}
		})
	}
}

func onAppArmor(machine string) oci.ContainerInput {
	in := testInput()
	in.Host.AppArmor = machine != "without"
	in.Sandbox.Linux.SecurityContext.Privileged = machine == "privileged"
	security(&in).Privileged = machine == "privileged"
	if machine == "never" || machine == "lost" {
		held := machine == "lost"
		loaded := func(string) (bool, error) { return held, nil }
		in.Lookup.AppArmorDefault = confine.KeepDefault(loaded, func() error { return errors.New("no apparmor_parser") })
		_, _ = in.Lookup.AppArmorDefault(true) // the daemon's start
		held = false
	}
	return in
}
