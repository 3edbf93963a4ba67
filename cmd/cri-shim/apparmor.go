// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// loadAppArmor gives the kernel the profile that RuntimeDefault means, before
// the first container may ask for it. It returns whether the kernel had one
// already, which may be that of an earlier version.
func (d *daemon) loadAppArmor() (old bool) {
	if !d.containers.Host.AppArmor {
		return false
	}
	old, err := sys.AppArmorLoaded(confine.DefaultAppArmor)
	if err == nil {
		_, err = d.containers.Lookup.AppArmorDefault(true)
	}
	if err != nil {
		d.log.Warn("containers that ask for no AppArmor profile run without one, those that ask for RuntimeDefault are refused", "err", err)
	}
	return old
}

// renewAppArmor replaces the profile of an earlier daemon. Containers that run
// under it get the new one.
func (d *daemon) renewAppArmor(ctx context.Context) {
	if err := confine.LoadAppArmor(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("AppArmor profile of an earlier start stays in use", "err", err)
	}
}
