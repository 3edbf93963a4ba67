// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"

	"github.com/containernetworking/cni/pkg/types/create"
)

// PrepareHost is what an ADD to the default network does to the host.
func PrepareHost(ctx context.Context, s *Service) error {
	if _, err := s.defaultList(true); err != nil {
		return err
	}
	return s.prepareHost(ctx)
}

// Ready says whether there is a configuration, and its plugins are installed.
func (s *Service) Ready() error {
	_, err := s.ready()
	return err
}

// LoadConf is the list of plugins in a configuration file, and the one that a DEL finds in its record.
func LoadConf(name string) (types, recorded []string, err error) {
	list, err := loadFile(name)
	if err != nil {
		return nil, nil, err
	}
	again, err := parseListBytes(list.Bytes)
	if err != nil {
		return pluginTypes(list), nil, nil
	}
	return pluginTypes(list), pluginTypes(again), nil
}

// IPs are the addresses in a plugin's answer.
func IPs(answer []byte) ([]string, error) {
	res, err := create.CreateFromBytes(answer)
	if err != nil {
		return nil, err
	}
	r, err := result(res)
	return r.IPs, err
}
