// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	runtimeName = "cri-shim"
	apiVersion  = "v1"
	// kubeletVersion answers the kubelet's own version field; it has been this
	// since before CRI had a version.
	kubeletVersion = "0.1.0"
	// checkLimit bounds what Status asks for: a kubelet that gets no answer
	// takes the node down.
	checkLimit = 5 * time.Second
)

func (a *api) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{
		Version: kubeletVersion, RuntimeName: runtimeName, RuntimeVersion: a.Options.Version, RuntimeApiVersion: apiVersion,
	}, nil
}

func (a *api) Status(ctx context.Context, r *cri.StatusRequest) (*cri.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	resp := &cri.StatusResponse{
		Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{a.runtimeReady(ctx), a.networkReady(ctx)}},
		Features: &cri.RuntimeFeatures{
			SupplementalGroupsPolicy:  a.Features.SupplementalGroupsPolicy,
			UserNamespacesHostNetwork: a.Features.UserNamespacesHostNetwork,
			MountOptions:              a.Features.MountOptions,
		},
	}
	for _, h := range a.Handlers {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &cri.RuntimeHandler{Name: h.Name, Features: &cri.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: h.RecursiveReadOnly, UserNamespaces: h.UserNamespaces,
		}})
	}
	var err error
	if r.GetVerbose() {
		resp.Info, err = a.info()
	}
	return resp, err
}

func condition(kind, reason string, err error) *cri.RuntimeCondition {
	if err != nil {
		return &cri.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
	}
	return &cri.RuntimeCondition{Type: kind, Status: true}
}

func (a *api) runtimeReady(ctx context.Context) *cri.RuntimeCondition {
	if err := a.gate.check(); err != nil {
		return condition(cri.RuntimeReady, "NotServing", err)
	}
	for _, check := range a.Checks {
		if err := check.Run(ctx); err != nil {
			return condition(cri.RuntimeReady, check.Reason, err)
		}
	}
	if err := a.Store.Writable(ctx); err != nil {
		return condition(cri.RuntimeReady, "RootNotWritable", err)
	}
	return condition(cri.RuntimeReady, "", nil)
}

func (a *api) networkReady(ctx context.Context) *cri.RuntimeCondition {
	return condition(cri.NetworkReady, "NetworkPluginNotReady", a.Network.Status(ctx))
}

// info is what a verbose Status adds: JSON texts by name.
func (a *api) info() (map[string]string, error) {
	pods, containers := a.Store.Count()
	parts := map[string]any{
		"golang":   runtime.Version(),
		"versions": moduleVersions(),
		"podCIDRs": a.Network.PodCIDRs(),
		"objects":  map[string]int{"pods": pods, "containers": containers},
		"appArmor": map[string]string{"defaultProfile": a.Containers.DefaultProfile()},
	}
	if a.Config != nil {
		parts["config"] = a.Config
	}
	out := map[string]string{}
	for name, part := range parts {
		text, err := json.Marshal(part)
		if err != nil {
			return nil, fmt.Errorf("encode runtime info %q: %w", name, err)
		}
		out[name] = string(text)
	}
	return out, nil
}

// moduleVersions are those of the libraries that decide how the runtime
// behaves.
func moduleVersions() map[string]string {
	out := map[string]string{}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	out[build.Main.Path] = build.Main.Version
	for _, m := range build.Deps {
		switch m.Path {
		case "k8s.io/cri-api", "k8s.io/cri-streaming", "github.com/containerd/containerd/v2", "github.com/containerd/nri",
			"github.com/containernetworking/cni", "google.golang.org/grpc":
			out[m.Path] = m.Version
		}
	}
	return out
}

// RuntimeConfig tells the kubelet the cgroup driver, which must not change
// while there are pods.
func (a *api) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	driver := cri.CgroupDriver_CGROUPFS
	if a.SystemdCgroup {
		driver = cri.CgroupDriver_SYSTEMD
	}
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDRs; an empty list is none of our
// business, by contract.
func (a *api) UpdateRuntimeConfig(_ context.Context, r *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	cidrs, err := podCIDRs(r)
	if err == nil && len(cidrs) > 0 {
		err = a.Network.SetPodCIDRs(cidrs)
	}
	return &cri.UpdateRuntimeConfigResponse{}, err
}
