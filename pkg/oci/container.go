// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"maps"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

// ContainerInput is all that the spec of a container depends on.
type ContainerInput struct {
	ID, PodID string
	Config    *cri.ContainerConfig
	Sandbox   *cri.PodSandboxConfig // the pod's
	Image     ocispec.ImageConfig
	ImageName string        // as the user wrote it, for annotations only
	User      identity.User // from identity.Resolve
	RootFS    string        // absolute path of the mounted root file system

	Namespaces  Namespaces     // of the pod
	CgroupsPath string         // from CgroupsPath
	Labels      confine.Labels // of the pod, from confine.NewLabels

	// Files and the directory of the pod that each container sees, unless it has a mount of its own at the place. An empty
	// path leaves the file out; an empty ShmPath gives the container a /dev/shm of its own.
	HostnamePath, ResolvPath, HostsPath, ShmPath string

	// Volumes holds, by index into Config.Mounts, where the image of a mount is mounted on the host, sub path included.
	Volumes map[int]string
	// Declared holds directories for the volumes that the image declares, by where in the container they are mounted.
	Declared map[string]string

	// PodAnnotations and ContainerAnnotations are patterns of the keys of annotations, of the pod and of the container, that
	// the runtime handler is to see; see CheckAnnotationPattern.
	PodAnnotations, ContainerAnnotations []string

	OCIVersion string // the version of the runtime-spec that the spec names; "" is the newest

	Host   Host
	Lookup Lookup
}

// container is a spec in the making.
type container struct {
	in         *ContainerInput
	spec       *specs.Spec
	sec        *cri.LinuxContainerSecurityContext // may be nil: its getters are safe
	privileged bool
	nodes      map[string]string // device nodes of the spec by their path: where the host has them
}

// Container builds the spec of an application container. Errors name the field, not the container.
func Container(in ContainerInput) (*specs.Spec, error) {
	c := &container{in: &in, nodes: map[string]string{}, sec: in.Config.GetLinux().GetSecurityContext()}
	c.privileged = c.sec.GetPrivileged()
	c.spec = newSpec(in.OCIVersion, in.RootFS, c.sec.GetReadonlyRootfs(), in.CgroupsPath)
	for _, rule := range []func() error{
		c.validate, c.process, c.capabilities, c.namespaces, c.lsm, c.paths, c.seccomp, c.mounts, c.devices, c.resources,
		c.annotations, c.cdi, c.bindNodes,
	} {
		if err := rule(); err != nil {
			return nil, err
		}
	}
	return c.spec, nil
}

func newSpec(version, rootfs string, readonly bool, cgroups string) *specs.Spec {
	return &specs.Spec{
		Version:     cmp.Or(version, specs.Version),
		Root:        &specs.Root{Path: rootfs, Readonly: readonly},
		Annotations: map[string]string{},
		Linux:       &specs.Linux{CgroupsPath: cgroups, Resources: &specs.LinuxResources{}},
	}
}

func (c *container) validate() error {
	return refusal.AllOf(ValidateContainer(c.in.Config, c.in.Host), FitsPod(c.in.Config, c.in.Sandbox))
}

func (c *container) capabilities() (err error) {
	c.spec.Process.Capabilities, err = confine.Capabilities(c.sec, c.in.Host.Capabilities)
	return err
}

func (c *container) annotations() error {
	maps.Copy(c.spec.Annotations, passed(c.in.Sandbox.GetAnnotations(), c.in.PodAnnotations))
	maps.Copy(c.spec.Annotations, passed(c.in.Config.GetAnnotations(), c.in.ContainerAnnotations))
	annotatePod(c.spec.Annotations, c.in.PodID, c.in.Sandbox)
	c.spec.Annotations[annotationType] = typeContainer
	c.spec.Annotations[annotationContainerName] = c.in.Config.GetMetadata().GetName()
	c.spec.Annotations[annotationImageName] = c.in.ImageName
	return nil
}
