// SPDX-License-Identifier: Apache-2.0

// Package nriview translates records of pods and containers, and the machine,
// into what NRI plugins see of them. It is a pure function of these: it calls
// no plugin and changes no record.
package nriview

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Pod is what plugins see of a pod.
func Pod(p state.Pod) nri.Pod {
	m := p.Config.GetMetadata()
	return nri.Pod{
		ID: string(p.ID), Name: m.GetName(), UID: m.GetUid(), Namespace: m.GetNamespace(),
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(),
		RuntimeHandler: p.Handler, CgroupParent: p.CgroupParent, CgroupsPath: p.Cgroup,
		NetNS: p.NetNS, PID: p.PausePID, IPs: p.IPs,
		Stopped:  p.Phase == state.PodNotReady || p.Phase == state.PodRemoving,
		Overhead: p.Overhead, Resources: p.Resources,
	}
}

// Container is what plugins see of a container; spec reads its OCI spec.
func Container(c state.Container, spec func(id string) (*specs.Spec, error)) nri.Container {
	return nri.Container{
		ID: string(c.ID), PodID: string(c.Pod), Name: c.Config.GetMetadata().GetName(),
		State: c.Phase.CRI(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		Spec: func() (*specs.Spec, error) { return spec(string(c.ID)) },
		PID:  c.PID, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt,
		ExitCode: c.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		ImageName: c.ImageName, ImageID: c.ImageID,
		Seccomp:    c.Config.GetLinux().GetSecurityContext().GetSeccomp(),
		CDIDevices: cdiNames(c.Config),
	}
}

func cdiNames(c *cri.ContainerConfig) []string {
	var names []string
	for _, d := range c.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	return names
}

// Host is what adjustments need to know of the machine.
func Host(host oci.Host, lookup oci.Lookup) nri.Host {
	return nri.Host{
		Facts: host.Facts,
		Resources: func(spec *specs.Spec, r *cri.LinuxContainerResources) error {
			return limits.Update(spec, r, host.Facts)
		},
		CDI: lookup.CDI, Propagation: lookup.Propagation,
	}
}
