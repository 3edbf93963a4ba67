// SPDX-License-Identifier: Apache-2.0

package oci

import (
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

// NoHostNamespaces refuses namespaces that are not the pod's or the container's
// own, for runtimes whose pods have a kernel of their own: there is nothing to share.
func NoHostNamespaces(o *cri.NamespaceOption) error {
	const field = "linux.security_context.namespace_options."
	var faults []error
	for _, ns := range []struct {
		name string
		mode cri.NamespaceMode
	}{{"network", o.GetNetwork()}, {"pid", o.GetPid()}, {"ipc", o.GetIpc()}} {
		if ns.mode == cri.NamespaceMode_NODE || ns.mode == cri.NamespaceMode_TARGET {
			faults = append(faults, refusal.Invalid(field+ns.name, "%s: the pod's runtime handler runs it in a kernel of its own", ns.mode))
		}
	}
	if u := o.GetUsernsOptions(); u != nil && u.GetMode() == cri.NamespaceMode_POD {
		faults = append(faults, refusal.Invalid(field+"userns_options", "POD: the pod's runtime handler runs it in a kernel of its own"))
	}
	return refusal.AllOf(faults...)
}
