// SPDX-License-Identifier: Apache-2.0

package child

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// ConsoleMark in an argv stands for the path of the console socket.
const ConsoleMark = "{console}"

// Console is a socket the runtime sends the pty master to.
type Console struct {
	path string
	fd   int
}

// Consoles makes console sockets in one directory, whose path is short enough for
// a socket's address.
type Consoles struct {
	Dir  string
	last atomic.Uint64
}

// New listens.
func (cs *Consoles) New() (*Console, error) {
	c := &Console{path: filepath.Join(cs.Dir, "tty"+strconv.FormatUint(cs.last.Add(1), 36))}
	_ = os.Remove(c.path)
	var err error
	if c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("make console socket: %w", err)
	}
	err = unix.Bind(c.fd, &unix.SockaddrUnix{Name: c.path})
	if err == nil {
		err = unix.Listen(c.fd, 1)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("bind console socket %s: %w", c.path, err)
	}
	return c, nil
}

// Close ends it.
func (c *Console) Close() {
	unix.Close(c.fd)
	_ = os.Remove(c.path)
}

// Fill puts the socket's path into argv.
func (c *Console) Fill(argv []string) []string {
	out := append([]string(nil), argv...)
	for i := range out {
		if out[i] == ConsoleMark {
			out[i] = c.path
		}
	}
	return out
}

// Receive takes the pty master that the runtime has sent by the time it exits.
func (c *Console) Receive() (int, error) {
	conn, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("accept terminal: %w", err)
	}
	defer unix.Close(conn)
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, oobn, _, _, err := unix.Recvmsg(conn, b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("receive terminal: %w", err)
	}
	fds, err := wire.ParseRights(oob[:oobn])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		wire.CloseFDs(fds)
		return -1, fmt.Errorf("receive terminal: %d descriptors came", len(fds))
	}
	return fds[0], nil
}
