// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// execPrefix begins the name of the cgroup each command has below the container's.
const execPrefix = "exec-"

// execGroup is the cgroup of one command, and none where commands are no
// processes of this machine.
func (s *Service) execGroup(c state.Container, handler string) (group cgroup.Sub, end func(), err error) {
	h, err := s.Runtime.Handler(handler)
	if err != nil || !h.HostProcesses {
		return group, func() {}, err
	}
	return s.makeExecGroup(c)
}

// makeExecGroup makes the cgroup of one command, to find everything it starts
// again. end removes it. One in which the command left something running cannot
// be removed then: it goes at a later command, once it is empty, or with the
// container.
func (s *Service) makeExecGroup(c state.Container) (group cgroup.Sub, end func(), err error) {
	name := execPrefix + state.NewID()[:12]
	s.mu.Lock()
	s.execs[name] = true // before it is there: a sweep must not take it for an old one
	s.mu.Unlock()
	end = func() {
		_ = group.Remove()
		s.mu.Lock()
		delete(s.execs, name)
		s.mu.Unlock()
	}
	cgroup.RemoveEmptySubs(c.Cgroup, func(other string) bool { return isExecGroup(other) && !s.isExec(other) })
	group, err = cgroup.MakeSub(c.Cgroup, name)
	if err != nil {
		end()
	}
	if errors.Is(err, fs.ErrNotExist) { // the container's own is gone, with the container
		err = fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return group, end, err
}

func isExecGroup(name string) bool { return strings.HasPrefix(name, execPrefix) }

// isExec tells whether the command of that cgroup is under way.
func (s *Service) isExec(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.execs[name]
}
