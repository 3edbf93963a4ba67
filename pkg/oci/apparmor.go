// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/apparmor"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DefaultAppArmor is the name of the profile that RuntimeDefault means.
const DefaultAppArmor = "cri-shim-default"

// parserLimit bounds a run of apparmor_parser, which takes a fraction of a second.
const parserLimit = 30 * time.Second

// LoadAppArmor compiles DefaultAppArmor with apparmor_parser and gives it to the kernel, in place of the one that it may
// hold. The profile is the one that Docker and Podman use as well. ErrUnavailable with the parser's own words when that
// does not work.
func LoadAppArmor() error {
	done := make(chan error, 1)
	go func() { done <- apparmor.InstallDefault(DefaultAppArmor) }()
	select {
	case err := <-done:
		if err != nil { // the parser's output has several lines
			return fmt.Errorf("load AppArmor profile %s: %s: %w", DefaultAppArmor, strings.Join(strings.Fields(err.Error()), " "), errdefs.ErrUnavailable)
		}
		return nil
	case <-time.After(parserLimit):
		return fmt.Errorf("load AppArmor profile %s: no end after %s: %w", DefaultAppArmor, parserLimit, errdefs.ErrUnavailable)
	}
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

const appArmorField = "linux.security_context.apparmor"

// appArmor returns the profile to run under, "" for none. Where nothing is said the default applies if there is one;
// what was asked for in so many words and can't be had is an error, since the user counts on it.
func appArmor(p *cri.SecurityProfile, host Host, look Lookup) (string, error) {
	switch {
	case p.GetProfileType() == cri.SecurityProfile_Unconfined:
		return "", nil
	case !host.AppArmor && p == nil:
		return "", nil
	case !host.AppArmor:
		return "", unmet(appArmorField, "there is no AppArmor here: the kernel has none, it is switched off, or /sys/kernel/security is not mounted")
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault: // also nil
		return defaultAppArmor(p != nil, look)
	}
	return localAppArmor(strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix), look)
}

func defaultAppArmor(asked bool, look Lookup) (string, error) {
	if look.AppArmorDefault == nil {
		look.AppArmorDefault = func(asked bool) (string, error) {
			if asked {
				return "", errors.New("no default profile")
			}
			return "", nil
		}
	}
	name, err := look.AppArmorDefault(asked)
	if err != nil {
		return "", unmet(appArmorField, "%v", err)
	}
	return name, nil
}

func localAppArmor(name string, look Lookup) (string, error) {
	if look.AppArmorLoaded == nil {
		return name, nil
	}
	loaded, err := look.AppArmorLoaded(name)
	if err != nil {
		return "", unmet(appArmorField, "%v", err)
	}
	if !loaded {
		return "", unmet(appArmorField, "profile %q is not loaded", name)
	}
	return name, nil
}
