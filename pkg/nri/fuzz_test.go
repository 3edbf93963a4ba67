// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
)

// FuzzAnswer: whatever a plugin answers, through the library, is an error or makes a spec that can be written down and
// leaves the container where it can be found.
func FuzzAnswer(f *testing.F) {
	for _, answer := range []*api.CreateContainerResponse{
		{},
		{Adjust: everything()},
		{Adjust: &api.ContainerAdjustment{Mounts: []*api.Mount{{Destination: "-/dev"}, {Destination: "x"}}}},
		{Adjust: &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{CgroupsPath: "/", OomScoreAdj: api.Int(2000)}}},
		{Update: []*api.ContainerUpdate{{ContainerId: "ctr-1", Linux: &api.LinuxContainerUpdate{Resources: everything().GetLinux().GetResources()}}}},
		{Update: []*api.ContainerUpdate{{}, {ContainerId: "other", IgnoreFailure: true}}, Evict: []*api.ContainerEviction{{ContainerId: "other"}}},
	} {
		raw, err := proto.Marshal(answer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	r := start(f, nil)
	var answer atomic.Pointer[api.CreateContainerResponse]
	r.connect(f, &plugin{
		onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
			return answer.Load().GetAdjust(), answer.Load().GetUpdate()
		},
		onUpdate: func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate { return answer.Load().GetUpdate() },
	})
	f.Fuzz(func(t *testing.T, raw []byte) {
		next := &api.CreateContainerResponse{}
		if proto.Unmarshal(raw, next) != nil {
			return
		}
		answer.Store(next)
		spec := testSpec()
		_, err := r.CreateContainer(t.Context(), testPod(), testContainer(), spec, func() error { return nil })
		if _, unwritable := json.Marshal(spec); unwritable != nil {
			t.Error(unwritable)
		}
		for _, m := range spec.Mounts {
			if err == nil && (!path.IsAbs(m.Destination) || m.Destination == "/") {
				t.Errorf("mount %+v", m)
			}
		}
		if err == nil && !strings.HasSuffix(spec.Linux.CgroupsPath, "ctr-1") {
			t.Errorf("cgroup %q", spec.Linux.CgroupsPath)
		}
		for _, d := range spec.Linux.Devices {
			if err == nil && !path.IsAbs(d.Path) {
				t.Errorf("device %+v", d)
			}
		}
		_, updates, err := r.UpdateContainer(t.Context(), testPod(), testContainer(), &cri.LinuxContainerResources{CpuShares: 2})
		for _, u := range updates {
			_ = r.Apply(spec, u) // refused or not, it returns
		}
		if err == nil && slices.ContainsFunc(updates, func(u nri.Update) bool { return u.Evict }) {
			t.Error("an eviction that nobody asked for")
		}
		r.RemoveContainer(t.Context(), testPod(), testContainer())
		if !r.Active() {
			t.Error("the plugin was dropped")
		}
	})
}
