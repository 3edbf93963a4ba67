// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// synchronize tells a plugin that has just connected what there is. The library sees to it that nothing is relayed,
// by tell and its kind, until the plugin is registered.
func (s *Service) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	var podMessages []*api.PodSandbox
	var containerMessages []*api.Container
	if !s.empty.Load() {
		pods, containers := s.o.State()
		for _, p := range pods {
			podMessages = append(podMessages, podMessage(p))
		}
		for _, c := range containers {
			containerMessages = append(containerMessages, s.containerMessage(c))
		}
	}
	updates, err := tell(ctx, podMessages, containerMessages)
	if err != nil {
		return err
	}
	s.later(fromReply(updates, nil))
	return nil
}

// takeStock enters what an earlier life of the daemon announced.
func (s *Service) takeStock() {
	pods, containers := s.o.State()
	for _, p := range pods {
		s.ledger.set(p.ID, live)
		if p.Stopped {
			s.ledger.set(p.ID, stopped)
		}
	}
	for _, c := range containers {
		s.ledger.set(c.ID, stageOf(c.State))
	}
}

func stageOf(c cri.ContainerState) stage {
	switch c {
	case cri.ContainerState_CONTAINER_CREATED:
		return announced
	case cri.ContainerState_CONTAINER_EXITED:
		return stopped
	}
	return live
}
