// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

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
		Propagation: propagationOf,
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

// propagationOf finds the mount that holds path, the nearest above it with the last one on top.
func propagationOf(path string) (Propagation, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Propagation{}, fmt.Errorf("resolve %s: %w", path, err)
	}
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return Propagation{}, fmt.Errorf("read mounts above %s: %w", real, err)
	}
	var p Propagation
	for _, m := range above {
		if len(m.Mountpoint) < len(p.Mount) {
			continue
		}
		p = Propagation{Mount: m.Mountpoint}
		for field := range strings.FieldsSeq(m.Optional) {
			p.Shared = p.Shared || strings.HasPrefix(field, "shared:")
			p.Slave = p.Slave || strings.HasPrefix(field, "master:")
		}
	}
	return p, nil
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
