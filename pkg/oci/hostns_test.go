// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

func TestNoHostNamespaces(t *testing.T) {
	for want, o := range map[string]*cri.NamespaceOption{
		"":                {Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}},
		"options.network": {Network: cri.NamespaceMode_NODE},
		"options.pid":     {Pid: cri.NamespaceMode_TARGET, TargetId: "x"},
		"options.ipc":     {Ipc: cri.NamespaceMode_NODE},
		"userns_options":  {UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD}},
	} {
		err := oci.NoHostNamespaces(o)
		if want == "" && err != nil || want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v", o, err)
		}
	}
}
