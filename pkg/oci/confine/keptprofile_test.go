// SPDX-License-Identifier: Apache-2.0

package confine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
)

// kernel is one whose default profile comes and goes.
type kernel struct {
	held   bool
	loads  int
	parser error
}

func (k *kernel) loaded(profile string) (bool, error) {
	return k.held && profile == confine.DefaultAppArmor, nil
}

func (k *kernel) load() error {
	k.loads++
	k.held = k.parser == nil
	return k.parser
}

func TestProfileThatWasUnloadedIsLoadedAgain(t *testing.T) {
	k := kernel{}
	use := confine.KeepDefault(k.loaded, k.load)
	for i, step := range []struct {
		before func()
		asked  bool
		want   string
		loads  int
		broken bool
	}{
		{func() {}, false, "", 0, false}, // nobody asked for it yet
		{func() {}, true, confine.DefaultAppArmor, 1, false},
		{func() {}, false, confine.DefaultAppArmor, 1, false},
		{func() { k.held = false }, false, confine.DefaultAppArmor, 2, false},
		{func() { k.held = false }, true, confine.DefaultAppArmor, 3, false},
		{func() { k.held, k.parser = false, errors.New("gone") }, false, "", 4, true},
		{func() { k.parser = nil }, false, confine.DefaultAppArmor, 5, false},
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
	err := confine.LoadAppArmor(t.Context())
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("class of %v", err)
	}
	for _, word := range []string{"apparmor_parser", confine.DefaultAppArmor} {
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
			t.Errorf("no %q in one line: %v", word, err)
		}
	}
}
