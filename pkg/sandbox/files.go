// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// shmSize is the size of a pod's /dev/shm in bytes, as with other runtimes;
// pods that need more mount an emptyDir of medium Memory there.
const shmSize = 64 << 20

// makeLogDir makes the pod's log directory, as other runtimes do. It stays when
// the pod goes: logs are the kubelet's.
func (s *Service) makeLogDir(ctx context.Context, c *cri.PodSandboxConfig) error {
	if c.GetLogDirectory() == "" {
		return nil
	}
	limited, cancel := s.paths.Limited(ctx)
	defer cancel()
	return s.paths.Directory(limited, c.GetLogDirectory())
}

// makeFiles writes hostname and resolv.conf and mounts the shared memory that
// the pod's containers have in common.
func (s *Service) makeFiles(ctx context.Context, p state.Pod) error {
	if err := s.installPause(ctx); err != nil {
		return err
	}
	dir := s.Layout.PodFiles(p.ID)
	uids, gids := oci.IDMappings(p.Config)
	uid, _ := netns.HostID(uids, 0)
	gid, _ := netns.HostID(gids, 0)
	if err := sys.MakePrivateDir(gid, dir); err != nil {
		return err
	}
	if err := writeFile(dir, "hostname", s.podHostname(p.Config)+"\n"); err != nil {
		return err
	}
	resolv, err := resolvConf(p.Config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := writeFile(dir, "resolv.conf", resolv); err != nil {
		return err
	}
	if err := confine.Relabel(ctx, dir, confine.Labels{Mount: p.MountLabel}); err != nil {
		return err
	}
	if p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == cri.NamespaceMode_NODE {
		return nil
	}
	if err := sys.MountShm(s.Layout.PodShm(p.ID), shmSize, uid, gid, p.MountLabel); err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	return nil
}

// writeHosts writes the /etc/hosts of containers that the kubelet gives none:
// the host's own on the host's network, else the pod's name and addresses.
func (s *Service) writeHosts(p state.Pod, ips []string) error {
	dir := s.Layout.PodFiles(p.ID)
	if p.NetNS == "" {
		hosts, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the host's hosts file: %w", err)
		}
		return writeFile(dir, "hosts", string(hosts))
	}
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, s.podHostname(p.Config))
	}
	return writeFile(dir, "hosts", b.String())
}

// installPause puts the pause program where pause containers find it. All pods
// share it: it is read-only to them, and nothing else is in there.
func (s *Service) installPause(ctx context.Context) error {
	if err := makeMountPoints(s.Layout.PauseRootFS()); err != nil {
		return err
	}
	if err := s.writePause(); err != nil {
		return err
	}
	return confine.LabelShared(ctx, s.Layout.PauseRootFS())
}

func (s *Service) writePause() error {
	path := filepath.Join(s.Layout.PauseRootFS(), "pause")
	if installed, err := os.ReadFile(path); err == nil && bytes.Equal(installed, s.Pause) {
		return nil // a page; the size alone would keep another version
	}
	next, err := os.CreateTemp(filepath.Dir(path), ".pause-")
	if err != nil {
		return fmt.Errorf("install pause: %w", err)
	}
	_, writeErr := next.Write(s.Pause)
	err = errors.Join(writeErr, next.Chmod(0o555), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		os.Remove(next.Name())
		return fmt.Errorf("install pause: %w", err)
	}
	return nil
}

// makeMountPoints makes what oci.Pause mounts on.
func makeMountPoints(root string) error {
	for _, dir := range []string{"dev/shm", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make pause directory: %w", err)
		}
	}
	null, err := os.OpenFile(filepath.Join(root, "dev", "null"), os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make pause directory: %w", err)
	}
	return null.Close()
}

// writeFile writes a small file of a pod, world-readable because containers of
// any user see it. A running container has it mounted, so it is not replaced.
func writeFile(dir, name, content string) error {
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		return fmt.Errorf("write pod's %s: %w", name, err)
	}
	return nil
}

// resolvConf writes a resolver configuration (resolv.conf(5)), or copies the
// host's when the pod has none of its own.
func resolvConf(dns *cri.DNSConfig) (string, error) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		host, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the host's resolv.conf: %w", err)
		}
		return string(host), nil
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, server := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return b.String(), nil
}

// podHostname is the configured name; without one the node's, as in the pod's
// UTS namespace.
func (s *Service) podHostname(c *cri.PodSandboxConfig) string {
	if c.GetHostname() != "" {
		return c.GetHostname()
	}
	return s.Host.Hostname
}
