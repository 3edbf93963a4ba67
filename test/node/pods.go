// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cleanTimeout bounds the removal of everything.
const cleanTimeout = 2 * time.Minute

// RemoveAll removes every pod and every image. It works after the context has ended, within its own time.
func (n *Node) RemoveAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	pods, err := n.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, p := range pods.GetItems() {
		errs = append(errs, n.RemovePod(ctx, p.GetId()))
	}
	images, err := n.Images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list images: %w", err))...)
	}
	for _, i := range images.GetImages() {
		if _, err := n.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: i.GetId()}}); err != nil && !i.GetPinned() {
			errs = append(errs, fmt.Errorf("remove image %s: %w", i.GetId(), err))
		}
	}
	return errors.Join(errs...)
}

// RemovePod stops and removes a pod with its containers.
func (n *Node) RemovePod(ctx context.Context, id string) error {
	if _, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	if _, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// Pull pulls an image and returns its id.
func (n *Node) Pull(ctx context.Context, name string) (string, error) {
	answer, err := n.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", name, err)
	}
	return answer.GetImageRef(), nil
}
