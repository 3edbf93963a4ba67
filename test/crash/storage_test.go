// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/registry"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hungFilesystem mounts a file system that answers nothing, and from die on every request with an error:
// FUSE, whose server is this process and never reads a request.
func hungFilesystem(t *testing.T) (dir string, die func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no file system that can be made to hang: /dev/fuse: %v", err)
	}
	dir = filepath.Join(t.TempDir(), "cri-hung")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cri-hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		unix.Close(fd)
		t.Skipf("no file system that can be made to hang: mount: %v", err)
	}
	var once sync.Once
	die = func() { once.Do(func() { unix.Close(fd) }) }
	t.Cleanup(func() {
		die()
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	return dir, die
}

// TestHungMountSource mounts a directory of a file system that hangs.
func TestHungMountSource(t *testing.T) {
	d := newNode(t, func(*nodetest.Node) {})
	warm(t, d)
	clean := d.Look(t)
	n := &node{Node: d, t: t}
	dir, die := hungFilesystem(t)
	w := n.world(t)
	w.container.Mounts = []*cri.Mount{{HostPath: filepath.Join(dir, "volume"), ContainerPath: "/volume"}}
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	begun := func(ctx context.Context) error {
		r, err := d.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: w.pod, Config: w.container, SandboxConfig: w.config})
		if err != nil {
			return err
		}
		_, err = d.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId})
		return err
	}
	impatient(t, begun)
	answers(t, d)
	impatient(t, begun)
	nodetest.Eventually(t, 5*time.Second, "the log names the stage and how long it lasts", func() bool {
		return strings.Contains(d.Log(), "still at")
	})
	restart(t, d)
	answers(t, d)
	die()
	if err := begun(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a container with a volume on a file system that died: %v", err)
	}
	w.container.Mounts = nil
	w.container.Metadata.Attempt++
	if err := errors.Join(w.create(), w.start()); err != nil {
		t.Error(err)
	}
	w.clear(clean)
}

// proxy is a registry that passes only so many bytes of its blobs.
type proxy struct {
	*httptest.Server
	quota atomic.Int64 // bytes until it stops; below zero: no limit
	slow  atomic.Bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	p.quota.Store(-1)
	forward := httputil.NewSingleHostReverseProxy(to)
	forward.ModifyResponse = func(r *http.Response) error {
		if strings.Contains(r.Request.URL.Path, "/blobs/") && r.Request.Method == http.MethodGet {
			r.Body = &trickle{ReadCloser: r.Body, p: p, ctx: r.Request.Context()}
		}
		return nil
	}
	p.Server = httptest.NewServer(forward)
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

type trickle struct {
	io.ReadCloser
	p   *proxy
	ctx context.Context
}

func (r *trickle) Read(b []byte) (int, error) {
	for r.p.quota.Load() == 0 {
		select {
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	limit := 4 << 10
	if q := r.p.quota.Load(); q > 0 {
		limit = int(min(q, int64(limit)))
	}
	if r.p.slow.Load() {
		time.Sleep(time.Millisecond)
	}
	n, err := r.ReadCloser.Read(b[:min(len(b), limit)])
	if r.p.quota.Load() > 0 {
		r.p.quota.Store(max(0, r.p.quota.Load()-int64(n)))
	}
	return n, err
}

func (p *proxy) writeHosts(dir, host string) error {
	if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", p.URL, p.URL)
	return os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o644)
}

// TestKilledPulls kills the daemon at random bytes of a pull. The image is
// never there by halves, the next pull brings it, and nothing of the others
// stays.
func TestKilledPulls(t *testing.T) {
	seed := number("CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("repeat with CRASH_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	reg, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	image := pushImage(t, reg)
	p := newProxy(t, reg.URL)
	var d *nodetest.Node
	d = newNode(t, func(d *nodetest.Node) {
		if err := p.writeHosts(filepath.Join(d.Dir, "certs.d"), "crash.test"); err != nil {
			t.Fatal(err)
		}
	})
	pull(t, d, image)
	removeImage(t, d, image)
	clean := d.Look(t)
	rounds := 6
	if os.Getenv("CRASH_KILLS") != "" {
		rounds = 40
	}
	for i := range rounds {
		p.quota.Store(random.Int64N(8 << 20))
		done := make(chan error, 1)
		go func() {
			_, err := d.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
			done <- err
		}()
		nodetest.Eventually(t, 20*time.Second, "the registry stops, or all is there", func() bool { return p.quota.Load() == 0 || len(done) > 0 })
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		acknowledged := <-done == nil
		p.quota.Store(-1)
		if err := d.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := d.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		if err != nil || acknowledged && r.Image == nil {
			t.Errorf("kill %d: acknowledged %t, image %v, %v", i, acknowledged, r.GetImage(), err)
		}
		pull(t, d, image)
		removeImage(t, d, image)
		d.AwaitSame(t, clean, fmt.Sprintf("after kill %d", i))
	}
}

// TestRegistryStops lets a registry stop in the middle of a blob.
func TestRegistryStops(t *testing.T) {
	reg, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	image := pushImage(t, reg)
	p := newProxy(t, reg.URL)
	d := newNode(t, func(d *nodetest.Node) {
		if err := p.writeHosts(filepath.Join(d.Dir, "certs.d"), "crash.test"); err != nil {
			t.Fatal(err)
		}
	})
	config, err := os.ReadFile(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Config, []byte(strings.Replace(string(config), "[image]\n", "[image]\nprogress_timeout = 2000000000\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	restart(t, d)
	p.quota.Store(1 << 20)
	began := time.Now()
	_, err = d.Images.PullImage(within(t, 30*time.Second), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
	if err == nil || !strings.Contains(err.Error(), "2s") {
		t.Errorf("a pull that stands still, after %s: %v", time.Since(began), err)
	}
	answers(t, d)
	p.quota.Store(-1)
	p.slow.Store(true) // it trickles: slow is not stopped
	pull(t, d, image)
	answers(t, d)
}
