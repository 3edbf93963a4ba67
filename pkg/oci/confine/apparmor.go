// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// DefaultAppArmor is the name of the profile that RuntimeDefault means.
const DefaultAppArmor = "cri-shim-default"

// parserLimit bounds a run of apparmor_parser, which takes a fraction of a second.
const parserLimit = 30 * time.Second

// LoadAppArmor compiles DefaultAppArmor with apparmor_parser and gives it to the kernel, in place of the one that it may
// hold. The profile is containerd's. ErrUnavailable with the parser's own words when that does not work.
func LoadAppArmor(ctx context.Context) error {
	if err := loadAppArmor(ctx); err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w: %w", DefaultAppArmor, err, errdefs.ErrUnavailable)
	}
	return nil
}

func loadAppArmor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, parserLimit)
	defer cancel()
	parser, err := program.Find("apparmor_parser")
	if err != nil {
		return err
	}
	text, err := apparmor.DumpDefaultProfile(DefaultAppArmor)
	if err != nil {
		return err
	}
	// Without its cache (-K), which may be on a disk that cannot be written.
	out, err := program.Command{Path: parser, Args: []string{"-Kr"}, Env: os.Environ(), Stdin: []byte(text)}.Run(ctx)
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", parser, out.Code, strings.Join(strings.Fields(string(out.Stderr)), " "))
	}
	return err
}

// KeepDefault returns an [AppArmor.Default] that finds the profile in the kernel with loaded, or puts it there with load.
func KeepDefault(loaded func(profile string) (bool, error), load func() error) func(asked bool) (profile string, err error) {
	return (&keptProfile{loaded: loaded, load: load}).use
}

// keptProfile finds the default profile in the kernel, or puts it there. It may be lost at any time: restarting the
// AppArmor service of some distributions unloads what is in none of its files.
type keptProfile struct {
	loaded func(profile string) (bool, error)
	load   func() error

	mu  sync.Mutex // guards had, and keeps two loads apart
	had bool       // it was in the kernel once
}

// use makes sure of the profile and returns its name. asked tells whether a request names RuntimeDefault: then, and
// where containers had the profile before, a container without it is an error. Otherwise "" says that there is none.
func (k *keptProfile) use(asked bool) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	there, err := k.loaded(DefaultAppArmor)
	if !there && !asked && !k.had {
		return "", nil
	}
	if err == nil && !there {
		err = k.load()
	}
	if err != nil {
		return "", err
	}
	k.had = true
	return DefaultAppArmor, nil
}

// AppArmorField is the field of a security context that names a profile.
const AppArmorField = "linux.security_context.apparmor"

// AppArmor is what this machine has of AppArmor.
type AppArmor struct {
	Enabled bool
	// Loaded reports whether the kernel holds a profile. nil: not checked.
	Loaded func(profile string) (bool, error)
	// Default makes sure that the kernel holds the profile that RuntimeDefault means, and returns its name. asked is false
	// for a container about which nothing is said: that gets "" where the profile never was. nil: there is none.
	Default func(asked bool) (profile string, err error)
}

// Profile returns the profile to run under, "" for none. Where nothing is said the default applies if there is one;
// what was asked for in so many words and can't be had is an error, since the user counts on it.
func (a AppArmor) Profile(p *cri.SecurityProfile) (string, error) {
	switch {
	case p.GetProfileType() == cri.SecurityProfile_Unconfined:
		return "", nil
	case !a.Enabled && p == nil:
		return "", nil
	case !a.Enabled:
		return "", refusal.Unmet(AppArmorField, "there is no AppArmor here: the kernel has none, it is switched off, or /sys/kernel/security is not mounted")
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault: // also nil
		return a.byDefault(p != nil)
	}
	return a.local(strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix))
}

func (a AppArmor) byDefault(asked bool) (string, error) {
	if a.Default == nil && !asked {
		return "", nil
	}
	if a.Default == nil {
		return "", refusal.Unmet(AppArmorField, "no default profile")
	}
	name, err := a.Default(asked)
	if err != nil {
		return "", refusal.Unmet(AppArmorField, "%v", err)
	}
	return name, nil
}

func (a AppArmor) local(name string) (string, error) {
	if a.Loaded == nil {
		return name, nil
	}
	loaded, err := a.Loaded(name)
	if err != nil {
		return "", refusal.Unmet(AppArmorField, "%v", err)
	}
	if !loaded {
		return "", refusal.Unmet(AppArmorField, "profile %q is not loaded", name)
	}
	return name, nil
}
