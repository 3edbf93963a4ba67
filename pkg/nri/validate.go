// SPDX-License-Identifier: Apache-2.0

package nri

import validator "github.com/containerd/nri/plugins/default-validator/builtin"

// Validation says which adjustments fail the creation of a container, whichever plugin asks for them, and which
// plugins must have been asked.
type Validation struct {
	RejectHooks             bool
	RejectDefaultSeccomp    bool // changes of the RuntimeDefault filter
	RejectUnconfinedSeccomp bool // a filter where none was asked for
	RejectCustomSeccomp     bool // changes of a Localhost filter
	RejectNamespaces        bool
	RejectSysctls           bool
	// RequiredPlugins must be connected, by name without index, or no container is created, those of static pods
	// included; unless the pod carries TolerateMissingAnnotation. "" tolerates nothing.
	RequiredPlugins           []string
	TolerateMissingAnnotation string
}

func (v *Validation) config() *validator.DefaultValidatorConfig {
	if v == nil {
		return nil
	}
	return &validator.DefaultValidatorConfig{
		Enable:                                true,
		RejectOCIHookAdjustment:               v.RejectHooks,
		RejectRuntimeDefaultSeccompAdjustment: v.RejectDefaultSeccomp,
		RejectUnconfinedSeccompAdjustment:     v.RejectUnconfinedSeccomp,
		RejectCustomSeccompAdjustment:         v.RejectCustomSeccomp,
		RejectNamespaceAdjustment:             v.RejectNamespaces,
		RejectSysctlAdjustment:                v.RejectSysctls,
		RequiredPlugins:                       v.RequiredPlugins,
		TolerateMissingAnnotation:             v.TolerateMissingAnnotation,
	}
}
