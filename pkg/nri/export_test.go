// SPDX-License-Identifier: Apache-2.0

package nri

import cri "k8s.io/cri-api/pkg/apis/runtime/v1"

// Active tells whether a plugin is connected.
func (s *Service) Active() bool { return s != nil && s.plugins.Load() > 0 }

// NewUpdate is an update with the fields of r that are not zero.
func NewUpdate(id string, r *cri.LinuxContainerResources) Update {
	return Update{ContainerID: id, resources: fromCRI(r)}
}
