// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const isolated = "CRI_TEST_ISOLATED"

// Isolate runs this program again in mount and network namespaces of its own and returns true and its exit code; in the
// program that was run again it returns false, and all is set up: mounts propagate within and never out, folders that
// runtimes share by convention are empty, and the loopback interface is up. Processes are not isolated.
//
// Outside Isolate the machine's own namespaces are used.
func Isolate() (again bool, code int, err error) {
	if os.Getenv(isolated) != "" {
		return false, 0, setUp()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags, not Cloneflags: it also keeps our mounts from the machine's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return true, 1, fmt.Errorf("isolate: %w", err)
	}
	go func() { // ends with the process
		for s := range signals {
			if s == syscall.SIGTERM { // an interrupt of the terminal reaches it without us
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return true, exit.ExitCode(), nil
	}
	if err != nil {
		return true, 1, fmt.Errorf("isolate: %w", err)
	}
	return true, 0, nil
}

// shared are the folders that runtimes and plugins use whatever their configuration says.
var shared = []string{"/run/netns", "/run/containerd", "/run/crio", "/run/nri", "/var/lib/cni"}

func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for _, dir := range shared {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("isolate: %w", err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("isolate %s: %w", dir, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("isolate: loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("isolate: loopback up: %w", err)
	}
	return nil
}

// Adopt makes this process the parent of every process below it that loses its own, so that Descendants sees them all.
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt orphans: %w", err)
	}
	return nil
}
