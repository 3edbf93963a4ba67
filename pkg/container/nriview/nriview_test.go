// SPDX-License-Identifier: Apache-2.0

package nriview

import (
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// complete fails for each field of a view that is not filled in.
func complete(t *testing.T, view any) {
	t.Helper()
	v := reflect.ValueOf(view)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s.%s is not filled in", v.Type(), v.Type().Field(i).Name)
		}
	}
}

func TestPod(t *testing.T) {
	record := state.Pod{
		ID: "pod", Phase: state.PodNotReady, Handler: "crun", NetNS: "/run/netns/x", IPs: []string{"10.0.0.2"}, PausePID: 7,
		CgroupParent: "/kubepods/pod", Cgroup: "/kubepods/pod/id", Overhead: &cri.LinuxContainerResources{}, Resources: &cri.LinuxContainerResources{},
		Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: "web", Uid: "uid", Namespace: "default"},
			Labels:   map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
		},
	}
	p := Pod(record)
	complete(t, p)
	if p.ID != "pod" || p.Name != "web" || p.UID != "uid" || p.Namespace != "default" || p.CgroupParent != "/kubepods/pod" || p.CgroupsPath != "/kubepods/pod/id" {
		t.Errorf("%+v", p)
	}
	for phase, stopped := range map[state.PodPhase]bool{
		state.PodCreating: false, state.PodReady: false, state.PodNotReady: true, state.PodRemoving: true,
	} {
		if record.Phase = phase; Pod(record).Stopped != stopped {
			t.Errorf("%s: stopped is not %t", phase, stopped)
		}
	}
}

func TestContainer(t *testing.T) {
	record := state.Container{
		ID: "ctr", Pod: "pod", Phase: state.Exited, ImageID: "sha256:1", ImageName: "web:1", PID: 9, ExitCode: 3, Reason: "Error", Message: "text",
		CreatedAt: time.Unix(1, 0), StartedAt: time.Unix(2, 0), FinishedAt: time.Unix(3, 0),
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "app"}, Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
			CDIDevices: []*cri.CDIDevice{{Name: "vendor.example/gpu=0"}},
			Linux:      &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{}}},
		},
	}
	asked := ""
	c := Container(record, func(id string) (*specs.Spec, error) { asked = id; return &specs.Spec{Version: "1.2"}, nil })
	complete(t, c)
	if asked != "" {
		t.Error("the spec was read before a plugin needs it")
	}
	if spec, err := c.Spec(); err != nil || spec.Version != "1.2" || asked != "ctr" {
		t.Errorf("spec %+v, %v, of %q", spec, err, asked)
	}
	if c.ID != "ctr" || c.PodID != "pod" || c.Name != "app" || c.State != cri.ContainerState_CONTAINER_EXITED || c.CDIDevices[0] != "vendor.example/gpu=0" {
		t.Errorf("%+v", c)
	}
}
