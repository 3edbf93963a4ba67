// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
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
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/registry"
)

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
	seed := nodetest.Number("CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("repeat with CRASH_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	reg, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	image := pushImage(t, reg)
	p := newProxy(t, reg.URL)
	d := prepared(t, func(d *nodetest.Node) {
		if err := p.writeHosts(filepath.Join(d.Dir, "certs.d"), "crash.test"); err != nil {
			t.Fatal(err)
		}
	})
	pull(t, d, image)
	removeImage(t, d, image)
	clean := d.Look(t)
	rounds := 6
	if !short() {
		rounds = 40
	}
	for i := range rounds {
		p.quota.Store(random.Int64N(8 << 20))
		done := make(chan error, 1)
		go func() {
			_, err := d.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
			done <- err
		}()
		nodetest.Eventually(t, 20*time.Second, "the registry stops, or all is there", func() bool {
			return p.quota.Load() == 0 || len(done) > 0
		})
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
	d := prepared(t, func(d *nodetest.Node) {
		if err := p.writeHosts(filepath.Join(d.Dir, "certs.d"), "crash.test"); err != nil {
			t.Fatal(err)
		}
	})
	d.Edit(t, "[image]\n", "[image]\nprogress_timeout = \"2s\"\n")
	restart(t, d)
	p.quota.Store(1 << 20)
	began := time.Now()
	_, err = d.Images.PullImage(nodetest.Within(t, 30*time.Second), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
	if err == nil || !strings.Contains(err.Error(), "2s") {
		t.Errorf("a pull that stands still, after %s: %v", time.Since(began), err)
	}
	answers(t, d)
	p.quota.Store(-1)
	p.slow.Store(true) // it trickles: slow is not stopped
	pull(t, d, image)
	answers(t, d)
}
