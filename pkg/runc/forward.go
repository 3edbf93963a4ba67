// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Forward connects to a port of a pod whose network is in its sandbox, on the
// loopback there. ErrUnavailable when nothing accepts connections on it.
func (s *Service) Forward(ctx context.Context, handler, pod string, port int32) (net.Conn, error) {
	h, err := s.Handler(handler)
	if err != nil {
		return nil, err
	}
	// A socket's address is short and a bundle's path may be long: the runtime goes by our descriptor.
	dir, err := os.Open(s.bundle(pod))
	if err != nil {
		return nil, fmt.Errorf("forward port: %w", err)
	}
	defer dir.Close()
	path := fmt.Sprintf("/proc/%d/fd/%d/port-%d-%d", os.Getpid(), dir.Fd(), port, s.forwards.Add(1))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("forward port: %w", err)
	}
	defer listener.Close()
	// The runtime connects, hands its end to the sandbox and returns.
	if _, err := s.command(ctx, h, pod, program.Command{}, "port-forward", "--stream", path, pod, strconv.Itoa(int(port))); err != nil {
		return nil, fmt.Errorf("connect to port %d of pod %.12s: %w: %w", port, pod, err, errdefs.ErrUnavailable)
	}
	conn, err := listener.Accept()
	if err != nil {
		return nil, fmt.Errorf("forward port: %w", err)
	}
	return conn, nil
}
