// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"

	"github.com/containerd/nri/pkg/adaptation"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is a pod as plugins see it. The maps are only read.
type Pod struct {
	ID, Name, UID, Namespace string
	Labels, Annotations      map[string]string
	RuntimeHandler           string
	CgroupParent             string // the pod's cgroup
	CgroupsPath              string // OCI cgroupsPath of the pause container
	NetNS                    string // pinned network namespace, "" on the host's network
	PID                      int    // of pause; 0 when it does not run
	IPs                      []string
	Stopped                  bool // plugins were told that it stopped, in this or an earlier life of the daemon
	// Overhead and Resources are the latest the kubelet said; nil when it said nothing.
	Overhead, Resources *cri.LinuxContainerResources
}

// RunPodSandbox announces a pod whose network and pause are up, then runs commit, which must make the pod visible to
// State; no plugin is synchronised in between. commit runs unless a plugin refuses, and must take no lock of another
// object. An error is the plugin's refusal, or commit's: undo the pod with StopPodSandbox and RemovePodSandbox.
func (s *Service) RunPodSandbox(ctx context.Context, pod Pod, commit func() error) error {
	if s == nil {
		return commit()
	}
	block := s.nri.BlockPluginSync()
	defer block.Unblock()
	s.ledger.set(pod.ID, live)
	err := s.tellBlocked(ctx, "run pod", func() error {
		return s.nri.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: podMessage(pod)})
	})
	if err != nil {
		return err
	}
	return commit()
}

// UpdatePodSandbox asks about new resources of a pod, before they are recorded. pod holds the old ones.
func (s *Service) UpdatePodSandbox(ctx context.Context, pod Pod, overhead, resources *cri.LinuxContainerResources) error {
	if s == nil {
		return nil
	}
	return s.tell(ctx, "update pod", func() error {
		_, err := s.nri.UpdatePodSandbox(ctx, &adaptation.UpdatePodSandboxRequest{
			Pod: podMessage(pod), OverheadLinuxResources: fromCRI(overhead), LinuxResources: fromCRI(resources),
		})
		return err
	})
}

// PostUpdatePodSandbox tells of a pod's new resources, once recorded.
func (s *Service) PostUpdatePodSandbox(ctx context.Context, pod Pod) {
	if s == nil {
		return
	}
	s.notify(ctx, "pod updated", func() error {
		return s.nri.PostUpdatePodSandbox(ctx, &adaptation.PostUpdatePodSandboxRequest{Pod: podMessage(pod)})
	})
}

// StopPodSandbox tells that a pod's containers have ended and that pause and network are about to go. Repeated calls,
// and calls for a pod that was never announced, do nothing.
func (s *Service) StopPodSandbox(ctx context.Context, pod Pod) {
	if s == nil || !s.ledger.move(pod.ID, live, stopped) {
		return
	}
	s.stopPod(ctx, pod)
}

func (s *Service) stopPod(ctx context.Context, pod Pod) {
	s.notify(ctx, "stop pod", func() error {
		return s.nri.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: podMessage(pod)})
	})
}

// RemovePodSandbox tells that a pod is gone; that it stopped first, if that was not told. Repeated calls, and calls
// for a pod that was never announced, do nothing.
func (s *Service) RemovePodSandbox(ctx context.Context, pod Pod) {
	if s == nil {
		return
	}
	was := s.ledger.drop(pod.ID)
	if was == 0 {
		return
	}
	if was == live {
		s.stopPod(ctx, pod)
	}
	s.notify(ctx, "remove pod", func() error {
		return s.nri.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: podMessage(pod)})
	})
}
