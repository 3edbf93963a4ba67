// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

const (
	runtimeDefault = cri.SecurityProfile_RuntimeDefault
	unconfined     = cri.SecurityProfile_Unconfined
	localhost      = cri.SecurityProfile_Localhost
)

// TestAppArmor: each way to ask for a profile, on each kind of machine, for a container that may do little and for one
// that is privileged. "!" is an error that names the field.
func TestAppArmor(t *testing.T) {
	const def, bad = oci.DefaultAppArmor, "!"
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
	if k := (kernel{parser: errors.New("no apparmor_parser")}); machine == "never" || machine == "lost" {
		k.held = machine == "lost"
		in.Lookup.AppArmorDefault = oci.KeepProfile(k.loaded, k.load)
		_, _ = in.Lookup.AppArmorDefault(true) // the daemon's start
		k.held = false
	}
	return in
}

// kernel is one whose default profile comes and goes.
type kernel struct {
	held   bool
	loads  int
	parser error
}

func (k *kernel) loaded(profile string) (bool, error) {
	return k.held && profile == oci.DefaultAppArmor, nil
}

func (k *kernel) load() error {
	k.loads++
	k.held = k.parser == nil
	return k.parser
}

func TestProfileThatWasUnloadedIsLoadedAgain(t *testing.T) {
	k := kernel{}
	use := oci.KeepProfile(k.loaded, k.load)
	for i, step := range []struct {
		before func()
		asked  bool
		want   string
		loads  int
		broken bool
	}{
		{func() {}, false, "", 0, false}, // nobody asked for it yet
		{func() {}, true, oci.DefaultAppArmor, 1, false},
		{func() {}, false, oci.DefaultAppArmor, 1, false},
		{func() { k.held = false }, false, oci.DefaultAppArmor, 2, false},
		{func() { k.held = false }, true, oci.DefaultAppArmor, 3, false},
		{func() { k.held, k.parser = false, errors.New("gone") }, false, "", 4, true},
		{func() { k.parser = nil }, false, oci.DefaultAppArmor, 5, false},
	} {
		step.before()
		got, err := use(step.asked)
		if got != step.want || k.loads != step.loads || (err != nil) != step.broken {
			t.Errorf("step %d: profile %q, %d loads, error %v", i, got, k.loads, err)
		}
	}
}

// TestMissingParserIsNamed: the error an operator reads says which program and which profile.
func TestMissingParserIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := oci.LoadAppArmor(t.Context())
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("class of %v", err)
	}
	for _, word := range []string{"apparmor_parser", oci.DefaultAppArmor} {
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
			t.Errorf("no %q in one line: %v", word, err)
		}
	}
}
