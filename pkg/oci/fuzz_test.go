// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
)

// FuzzContainer: whatever a client sends gives a valid spec or one of the two error classes, and never a panic. Configs
// are fuzzed in their wire format, which is how they arrive.
func FuzzContainer(f *testing.F) {
	for _, edit := range containerCases() {
		in := testInput()
		edit(&in)
		config, err := proto.Marshal(in.Config)
		if err != nil {
			f.Fatal(err)
		}
		pod, err := proto.Marshal(in.Sandbox)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config, pod)
	}
	f.Fuzz(func(t *testing.T, config, pod []byte) {
		in := testInput()
		in.Config, in.Sandbox = &cri.ContainerConfig{}, &cri.PodSandboxConfig{}
		if proto.Unmarshal(config, in.Config) != nil || proto.Unmarshal(pod, in.Sandbox) != nil {
			return
		}
		in.Volumes = map[int]string{0: "/v0", 1: "/v1", 2: "/v2"}
		spec, err := oci.Container(in)
		valid(t, spec, err)
		if err == nil {
			if err := limits.Update(spec, in.Config.GetLinux().GetResources(), in.Host.Facts); err != nil {
				t.Errorf("resources accepted at creation are refused as an update: %v", err)
			}
		}
		p := testPause()
		p.Config = in.Sandbox
		spec, err = oci.Pause(p)
		valid(t, spec, err)
		open := identity.OpenIn(t.TempDir())
		if _, err := identity.Resolve(t.Context(), open, "1:2", in.Config.GetLinux().GetSecurityContext()); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("resolve user: %v", err)
		}
	})
}

// valid states what runtimes demand of a spec.
func valid(t *testing.T, spec *specs.Spec, err error) {
	t.Helper()
	if err != nil {
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error of no class: %v", err)
		}
		return
	}
	if _, err := json.Marshal(spec); err != nil {
		t.Errorf("marshal: %v", err)
	}
	if len(spec.Process.Args) == 0 || spec.Process.Args[0] == "" || !path.IsAbs(spec.Process.Cwd) {
		t.Errorf("process %+v", spec.Process)
	}
	depth := 0
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Destination) || m.Type == "bind" && !path.IsAbs(m.Source) || m.Destination == "/" {
			t.Errorf("mount %+v", m)
		}
		if d := strings.Count(m.Destination, "/"); d < depth {
			t.Errorf("mount %+v after a deeper one", m)
		} else {
			depth = d
		}
	}
	var kinds []specs.LinuxNamespaceType
	for _, n := range spec.Linux.Namespaces {
		if slices.Contains(kinds, n.Type) {
			t.Errorf("namespace %s twice", n.Type)
		}
		kinds = append(kinds, n.Type)
	}
	caps := spec.Process.Capabilities
	for _, c := range slices.Concat(caps.Ambient, caps.Inheritable, caps.Permitted, caps.Effective) {
		if !slices.Contains(caps.Bounding, c) {
			t.Errorf("capability %s is not bounded", c)
		}
	}
}
