// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ownNetNS is the calling thread's network namespace. The thread's, not the process's: /proc/self follows the
// main thread, which may be visiting another namespace at that moment.
const ownNetNS = "/proc/thread-self/ns/net"

// New makes a network namespace and pins it at path with a bind mount, so that it lives without any process in it.
// It is idempotent: a namespace that is already pinned there is kept. The directory is made when missing.
func New(path string) error {
	return newPinned(path, func() error {
		return onOwnNetNS(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("unshare network namespace: %w", err)
			}
			return bindNS(ownNetNS, path)
		})
	})
}

// Is reports whether a namespace is pinned at path (or path is a namespace link of /proc).
func Is(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Remove unpins the namespace at path and removes the file. It is idempotent, works on whatever an interrupted
// New left and on any other kind of pinned namespace; the kernel frees the namespace when its last user is gone.
func Remove(path string) error {
	for Is(path) { // two racing makers may have stacked their mounts
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break
			}
			return fmt.Errorf("unmount namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace file: %w", err)
	}
	return nil
}

// List returns the paths that start with prefix, such as "/var/run/netns/cri-", sorted. Files that an interrupted
// New left without a namespace are among them: Remove takes both. A missing directory is an empty list, a prefix that
// is no absolute path an error.
func List(prefix string) ([]string, error) {
	if !filepath.IsAbs(prefix) {
		return nil, fmt.Errorf("list namespaces: %q is no absolute path", prefix)
	}
	dir, base := filepath.Split(prefix)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), base) && !e.IsDir() {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// In runs f on a thread that is in the network namespace at path. Only what f does on its own goroutine sees the
// namespace. Sockets that f opens stay in it.
func In(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	return onOwnNetNS(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

// Dial connects to addr from inside the network namespace at path. addr is a literal address and a port: names are not
// resolved, as no resolver belongs to a namespace.
func Dial(ctx context.Context, path, network, addr string) (net.Conn, error) {
	var conn net.Conn
	_, err := netip.ParseAddrPort(addr)
	if err == nil {
		// A literal address makes the dialer open its socket on this goroutine, so on the thread inside.
		err = In(path, func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("dial in %s: %w", path, err)
	}
	return conn, nil
}

// onOwnNetNS runs f on a locked thread and brings that thread back to its network namespace afterwards. A thread that
// can't come back stays locked and so ends with its goroutine: never may other goroutines run in a pod's namespace.
func onOwnNetNS(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(ownNetNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// newPinned makes the file that a namespace is mounted on, and takes it away again when pin fails.
func newPinned(path string, pin func() error) error {
	if Is(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make namespace directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("make namespace file: %w", err)
	}
	f.Close()
	if err := pin(); err != nil {
		return errors.Join(err, Remove(path))
	}
	return nil
}

func bindNS(source, path string) error {
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace at %s: %w", path, err)
	}
	return nil
}
