// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// NewWithUser makes a user namespace with the given maps and a network namespace that it owns, and pins both.
// Made together because a process with several threads can't enter a user namespace: the owner has to be the one that
// the network namespace is born in. It is idempotent; half a pair is replaced by a new one. Remove removes each.
func NewWithUser(userPath, netPath string, uids, gids []specs.LinuxIDMapping) error {
	if Is(userPath) && Is(netPath) {
		return nil
	}
	if err := errors.Join(Remove(netPath), Remove(userPath)); err != nil {
		return err
	}
	// The child belongs to the thread that traces it, so everything happens on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"cri-userns"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: sysIDMaps(uids), GidMappings: sysIDMaps(gids),
		GidMappingsEnableSetgroups: true,
		Pdeathsig:                  syscall.SIGKILL,
		Ptrace:                     true, // stopped before its first instruction: it only has to exist while we pin
	}})
	if err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	err = pinBoth(userPath, netPath, child.Pid)
	_ = child.Kill()
	if _, werr := child.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("reap namespace holder: %w", werr))
	}
	return err
}

func pinBoth(userPath, netPath string, pid int) error {
	err := newPinned(userPath, func() error { return bindNS(fmt.Sprintf("/proc/%d/ns/user", pid), userPath) })
	if err != nil {
		return err
	}
	err = newPinned(netPath, func() error { return bindNS(fmt.Sprintf("/proc/%d/ns/net", pid), netPath) })
	if err != nil {
		return errors.Join(err, Remove(userPath))
	}
	return nil
}

func sysIDMaps(maps []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, 0, len(maps))
	for _, m := range maps {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// HostID returns the host's id of an id in a user namespace with these maps. mapped is false where no map has it: then
// the id comes back unchanged, as it is without a user namespace.
func HostID(maps []specs.LinuxIDMapping, id int64) (host int, mapped bool) {
	for _, m := range maps {
		if offset := id - int64(m.ContainerID); offset >= 0 && offset < int64(m.Size) {
			return int(int64(m.HostID) + offset), true
		}
	}
	return int(id), false
}
