// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
)

// checkImage refuses a spec that names no image, or a handler that is not
// there: CRI asks to reject the latter.
func (a *api) checkImage(doing string, spec *cri.ImageSpec) error {
	var f faults
	f.image(spec)
	handler := spec.GetRuntimeHandler()
	f.unless(handler == "" || slices.ContainsFunc(a.Handlers, func(h Handler) bool { return h.Name == handler }), "runtime_handler %q is unknown", handler)
	return f.err(doing)
}

func (a *api) PullImage(ctx context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	if err := a.checkImage("pull image", r.GetImage()); err != nil {
		return nil, err
	}
	id, err := a.Images.Pull(ctx, image.Pull{Ref: r.GetImage().GetImage(), Auth: r.GetAuth()})
	a.refs.forget()
	return &cri.PullImageResponse{ImageRef: id}, err
}

// ImageStatus of an image that is not there is an empty answer, by contract.
func (a *api) ImageStatus(ctx context.Context, r *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	if err := a.checkImage("image status", r.GetImage()); err != nil {
		return nil, err
	}
	img, err := a.Images.Get(ctx, r.GetImage().GetImage())
	if err != nil {
		return &cri.ImageStatusResponse{}, ignoreNotFound(err)
	}
	resp := &cri.ImageStatusResponse{Image: imageItem(img)}
	if r.GetVerbose() {
		resp.Info, err = a.Images.Info(ctx, img.ID)
	}
	return resp, err
}

func (a *api) RemoveImage(ctx context.Context, r *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	if err := a.checkImage("remove image", r.GetImage()); err != nil {
		return nil, err
	}
	err := a.Images.Remove(ctx, r.GetImage().GetImage())
	a.refs.forget()
	return &cri.RemoveImageResponse{}, ignoreNotFound(err)
}

func (a *api) ListImages(ctx context.Context, r *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	items, err := a.imageItems(ctx, r.GetFilter())
	return &cri.ListImagesResponse{Images: items}, err
}

func (a *api) StreamImages(r *cri.StreamImagesRequest, s grpc.ServerStreamingServer[cri.StreamImagesResponse]) error {
	items, err := a.imageItems(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunks(items, func(some []*cri.Image) error {
		return s.Send(&cri.StreamImagesResponse{Images: some})
	})
}

func (a *api) imageItems(ctx context.Context, f *cri.ImageFilter) ([]*cri.Image, error) {
	var images []image.Image
	var err error
	if ref := f.GetImage().GetImage(); ref == "" {
		images, err = a.Images.List(ctx)
	} else {
		var one image.Image
		if one, err = a.Images.Get(ctx, ref); err == nil {
			images = []image.Image{one}
		} else if errdefs.IsNotFound(err) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []*cri.Image
	for _, i := range images {
		out = append(out, imageItem(i))
	}
	return out, nil
}

// ImageFsInfo names the same filesystem for images and containers: the kubelet
// then counts them together, as they are.
func (a *api) ImageFsInfo(ctx context.Context, _ *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	info, err := a.RootFS.FsInfo(ctx)
	if err != nil {
		return nil, err
	}
	return &cri.ImageFsInfoResponse{
		ImageFilesystems:     []*cri.FilesystemUsage{fsUsage(info.Image)},
		ContainerFilesystems: []*cri.FilesystemUsage{fsUsage(info.Container)},
	}, nil
}

func fsUsage(u rootfs.FsUsage) *cri.FilesystemUsage {
	return &cri.FilesystemUsage{
		Timestamp:  nanos(u.Time),
		FsId:       &cri.FilesystemIdentifier{Mountpoint: u.Mountpoint},
		UsedBytes:  &cri.UInt64Value{Value: u.Bytes},
		InodesUsed: &cri.UInt64Value{Value: u.Inodes},
	}
}
