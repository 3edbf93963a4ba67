// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// nanos is a time as CRI writes it; 0 for none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func podState(p state.Pod) cri.PodSandboxState {
	if p.Phase == state.PodReady {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func podItem(p state.Pod) *cri.PodSandbox {
	return &cri.PodSandbox{
		Id: string(p.ID), Metadata: p.Config.GetMetadata(), State: podState(p), CreatedAt: nanos(p.CreatedAt),
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(), RuntimeHandler: p.Handler,
	}
}

func podStatus(p state.Pod) *cri.PodSandboxStatus {
	options := p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		options = &cri.NamespaceOption{}
	}
	return &cri.PodSandboxStatus{
		Id: string(p.ID), Metadata: p.Config.GetMetadata(), State: podState(p), CreatedAt: nanos(p.CreatedAt),
		Network: podNetwork(p.IPs), Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: options}},
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(), RuntimeHandler: p.Handler,
	}
}

func podNetwork(ips []string) *cri.PodSandboxNetworkStatus {
	n := &cri.PodSandboxNetworkStatus{}
	for i, ip := range ips {
		if i == 0 {
			n.Ip = ip
		} else {
			n.AdditionalIps = append(n.AdditionalIps, &cri.PodIP{Ip: ip})
		}
	}
	return n
}

func imageSpec(c state.Container) *cri.ImageSpec {
	asked := c.Config.GetImage()
	return &cri.ImageSpec{
		Image:              c.ImageName,
		Annotations:        asked.GetAnnotations(),
		UserSpecifiedImage: asked.GetUserSpecifiedImage(),
		RuntimeHandler:     asked.GetRuntimeHandler(),
	}
}

func (a *api) containerItem(ctx context.Context, c state.Container) *cri.Container {
	return &cri.Container{
		Id: string(c.ID), PodSandboxId: string(c.Pod), Metadata: c.Config.GetMetadata(), State: c.Phase.CRI(),
		Image: imageSpec(c), ImageId: c.ImageID, ImageRef: a.imageRef(ctx, c), CreatedAt: nanos(c.CreatedAt),
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
	}
}

func (a *api) containerStatus(ctx context.Context, c state.Container) *cri.ContainerStatus {
	s := &cri.ContainerStatus{
		Id: string(c.ID), Metadata: c.Config.GetMetadata(), State: c.Phase.CRI(),
		CreatedAt: nanos(c.CreatedAt), StartedAt: nanos(c.StartedAt), FinishedAt: nanos(c.FinishedAt),
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		Image: imageSpec(c), ImageId: c.ImageID, ImageRef: a.imageRef(ctx, c),
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		Mounts: c.Mounts, LogPath: c.LogPath, Resources: c.Resources, User: c.User, StopSignal: cri.Signal(c.StopSignal),
	}
	if s.Resources == nil {
		s.Resources = &cri.ContainerResources{Linux: c.Config.GetLinux().GetResources()}
	}
	return s
}

func (a *api) containerStatuses(ctx context.Context, all []state.Container) []*cri.ContainerStatus {
	var out []*cri.ContainerStatus
	for _, c := range all {
		if c.Phase.Visible() {
			out = append(out, a.containerStatus(ctx, c))
		}
	}
	return out
}

// imageRefs remembers under which digests images are known, so that statuses
// need not read the image store. The zero value is empty.
type imageRefs struct {
	mu      sync.Mutex // guards digests
	digests map[string][]string
}

// maxImageRefs is more images than a node has; above it the memory starts anew.
const maxImageRefs = 4096

// imageRef is the digested name of the container's image, of the repository the
// user named if there are several; the id of an image that has none.
func (a *api) imageRef(ctx context.Context, c state.Container) string {
	a.refs.mu.Lock()
	digests, ok := a.refs.digests[c.ImageID]
	a.refs.mu.Unlock()
	if !ok {
		img, err := a.Images.Get(ctx, c.ImageID)
		if err != nil && !errdefs.IsNotFound(err) { // removed under its containers is allowed
			return c.ImageID
		}
		digests = img.RepoDigests
		a.refs.keep(c.ImageID, digests)
	}
	return digestedName(c.ImageName, digests, c.ImageID)
}

// digestedName picks the digest of the repository that name is in, else any,
// else the id.
func digestedName(name string, digests []string, id string) string {
	for _, d := range digests {
		repository, _, _ := strings.Cut(d, "@")
		if rest, ok := strings.CutPrefix(name, repository); ok && (rest == "" || rest[0] == ':' || rest[0] == '@') {
			return d
		}
	}
	if len(digests) > 0 {
		return digests[0]
	}
	return id
}

func (r *imageRefs) keep(id string, digests []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.digests == nil || len(r.digests) >= maxImageRefs {
		r.digests = map[string][]string{}
	}
	r.digests[id] = slices.Clone(digests)
}

// forget is called when an image gets another name or goes.
func (r *imageRefs) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.digests)
}

func imageItem(i image.Image) *cri.Image {
	out := &cri.Image{
		Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests, Size: max(i.Size, 1), Pinned: i.Pinned,
		Spec: &cri.ImageSpec{Image: i.ID, Annotations: i.Annotations},
	}
	user, _, _ := strings.Cut(i.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &cri.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}
