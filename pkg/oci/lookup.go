// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// seccompMax bounds a profile, in bytes.
const seccompMax = 4 << 20

// Live returns the Lookup that asks the kernel and the file system. CDI specs are read from cdiDirs each time a container
// asks for a CDI device, so there is nothing to watch while none does; a later directory wins. ctx is the life of what is
// started for it.
func Live(ctx context.Context, cdiDirs ...string) Lookup {
	keep := confine.KeepDefault(sys.AppArmorLoaded, func() error { return confine.LoadAppArmor(ctx) })
	return Lookup{
		ReadFile:       readProfile,
		Devices:        sys.Devices,
		AppArmorLoaded: sys.AppArmorLoaded, AppArmorDefault: keep,
		Propagation: mount.PropagationOf,
		CDI:         func(spec *specs.Spec, names []string) error { return injectCDI(spec, names, cdiDirs) },
	}
}

func readProfile(path string) ([]byte, error) {
	f, err := identity.OpenIn("/")(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, seccompMax+1))
	if err == nil && len(raw) > seccompMax {
		err = fmt.Errorf("read %s: larger than %d bytes", path, seccompMax)
	}
	return raw, err
}

func injectCDI(spec *specs.Spec, names, dirs []string) error {
	registry, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read CDI specs: %w", err)
	}
	// A broken file must not keep the others from working; its devices turn up as unresolved below.
	broken := registry.Refresh()
	if missing, err := registry.InjectDevices(spec, names...); err != nil {
		return errors.Join(fmt.Errorf("inject CDI devices %s: %w", strings.Join(missing, ", "), err), broken)
	}
	return nil
}
