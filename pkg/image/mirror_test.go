// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// mirrored opens a store for which the named hosts are asked, in this order, for images of registry.example.
func mirrored(t *testing.T, limit time.Duration, hosts ...string) store {
	t.Helper()
	config := t.TempDir()
	d := filepath.Join(config, "registry.example")
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	last := len(hosts) - 1
	text := fmt.Sprintf("server = %q\n", hosts[last])
	for _, h := range hosts[:last] {
		text += fmt.Sprintf("[host.%q]\nskip_verify = true\n", h)
	}
	if err := os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return open(t, func(o *image.Options) { o.RegistryConfig, o.ProgressTimeout = config, limit })
}

// sixLayers is an image whose layers are downloaded one after another.
func sixLayers(t *testing.T) ocilayout.Built {
	t.Helper()
	var i ocilayout.Image
	for n := range 6 {
		i.Layers = append(i.Layers, ocilayout.Layer{file("name", fmt.Sprint(n)), ocilayout.File{Path: "noise", Content: noise(100000 + n)}})
	}
	return built(t, i)
}

// listener counts its connections and hands each to use.
type listener struct {
	net.Listener
	mu   sync.Mutex
	seen int
}

func listen(t *testing.T, use func(net.Conn)) *listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &listener{Listener: l}
	var held []net.Conn
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			out.mu.Lock()
			out.seen++
			held = append(held, c)
			out.mu.Unlock()
			use(c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		done.Wait()
		for _, c := range held {
			_ = c.Close()
		}
	})
	return out
}

func (l *listener) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen
}

func silence(net.Conn) {}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// TestMirrorThatDoesNotAnswer: it is asked once in a pull.
func TestMirrorThatDoesNotAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		scheme string
		use    func(net.Conn)
	}{"silent": {"http", silence}, "silent TLS": {"https", silence}, "resets": {"http", reset}, "resets TLS": {"https", reset}} {
		t.Run(name, func(t *testing.T) {
			r, mirror := newRegistry(t), listen(t, c.use)
			r.pushBuilt(t, "test/six:v1", sixLayers(t))
			s := mirrored(t, 3*time.Second, c.scheme+"://"+mirror.Addr().String(), r.URL)
			s.pull(t, "registry.example/test/six:v1")
			if n := mirror.connections(); n != 1 {
				t.Errorf("%d connections to the mirror", n)
			}
		})
	}
}

// TestMirrorThatStopsAnswering answers what a pull begins with, and then no layer; what its clients have to get
// elsewhere, a token or a blob, may not come either.
func TestMirrorThatStopsAnswering(t *testing.T) {
	dead := listen(t, silence)
	six := sixLayers(t)
	hang := func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }
	for name, answer := range map[string]func(w http.ResponseWriter, q *http.Request){
		"no answer": hang,
		"stalls in the middle": func(w http.ResponseWriter, q *http.Request) {
			blob := six.Blobs[digest.Digest(filepath.Base(q.URL.Path))]
			from := 0
			if _, err := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-", &from); err == nil {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
			}
			_, _ = w.Write(blob[from:min(from+1000, len(blob))])
			_ = http.NewResponseController(w).Flush()
			hang(w, q)
		},
		"sends to a dead blob store": func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "http://"+dead.Addr().String()+"/blob", http.StatusTemporaryRedirect)
		},
		"sends to a dead token server": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, dead.Addr()))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	} {
		t.Run(name, func(t *testing.T) {
			mirror, r := newRegistry(t), newRegistry(t)
			mirror.pushBuilt(t, "test/six:v1", six)
			r.pushBuilt(t, "test/six:v1", six)
			mirror.inject(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					for _, l := range six.Layers {
						if strings.HasSuffix(q.URL.Path, l.Digest.String()) {
							answer(w, q)
							return
						}
					}
					next.ServeHTTP(w, q)
				})
			})
			s := mirrored(t, 3*time.Second, mirror.URL, r.URL)
			id := s.pull(t, "registry.example/test/six:v1")
			if got := imagestore.Read(t, filepath.Join(s.Mount(t, "c", rootfs.From{ImageID: id}), "noise")); got != string(noise(100005)) {
				t.Error("content differs")
			}
			asked := 0
			for _, q := range mirror.requests() {
				for _, l := range six.Layers {
					if strings.Contains(q, l.Digest.String()) {
						asked++
					}
				}
			}
			if asked == 0 || asked > 3 { // as many as are downloaded at once
				t.Errorf("%d requests for layers to the mirror: %q", asked, mirror.requests())
			}
		})
	}
}

// TestOnlyMirrorWorks: a mirror that stalled once is asked again when nobody else can be.
func TestOnlyMirrorWorks(t *testing.T) {
	mirror := newRegistry(t)
	b := built(t, big(1<<20))
	mirror.pushBuilt(t, "test/img:v1", b)
	layer, stalled := b.Layers[0].Digest, false
	mirror.inject(onBlob(layer, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if stalled {
			next.ServeHTTP(w, q)
			return
		}
		stalled = true
		w.Header().Set("Content-Length", strconv.Itoa(len(b.Blobs[layer])))
		_, _ = w.Write(b.Blobs[layer][:1000])
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
	}))
	s := mirrored(t, 3*time.Second, mirror.URL, "http://127.0.0.1:1")
	s.pull(t, "registry.example/test/img:v1")
}

// putOffFirst answers the first n requests that match with a word to come back later, and notes when they came.
type putOffFirst struct {
	match  func(q *http.Request) bool
	status int
	after  func() string
	n      int

	mu   sync.Mutex // guards came
	came []time.Time
}

func (p *putOffFirst) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !p.match(q) {
			next.ServeHTTP(w, q)
			return
		}
		p.mu.Lock()
		p.came = append(p.came, time.Now())
		early := len(p.came) <= p.n
		p.mu.Unlock()
		if !early {
			next.ServeHTTP(w, q)
			return
		}
		w.Header().Set("Retry-After", p.after())
		w.WriteHeader(p.status)
	})
}

func (p *putOffFirst) times() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.came...)
}

func seconds(text string) func() string { return func() string { return text } }

func path(part string) func(*http.Request) bool {
	return func(q *http.Request) bool { return strings.Contains(q.URL.Path, part) }
}

// TestRegistryPutsOff: who says when to come back is asked again then, and not before.
func TestRegistryPutsOff(t *testing.T) {
	b := built(t, big(1000))
	date := func() string { return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat) }
	for name, p := range map[string]*putOffFirst{
		"tag":                {match: path("/manifests/v1"), status: 429, after: seconds("1"), n: 2},
		"tag 503":            {match: path("/manifests/v1"), status: 503, after: seconds("1"), n: 2},
		"manifest":           {match: path("/manifests/sha256:"), status: 429, after: seconds("1"), n: 2},
		"config":             {match: path(b.Config.Digest.String()), status: 429, after: seconds("1"), n: 1},
		"layer":              {match: path(b.Layers[0].Digest.String()), status: 429, after: seconds("1"), n: 2},
		"layer 503":          {match: path(b.Layers[0].Digest.String()), status: 503, after: seconds("1"), n: 2},
		"layer until a date": {match: path(b.Layers[0].Digest.String()), status: 429, after: date, n: 1},
		"at once":            {match: path(b.Config.Digest.String()), status: 429, after: seconds("0"), n: 1},
		"everything":         {match: func(*http.Request) bool { return true }, status: 429, after: seconds("1"), n: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), open(t)
			r.pushBuilt(t, "test/img:v1", b)
			r.inject(p.middleware)
			s.pull(t, r.host()+"/test/img:v1")
			came := p.times()
			if len(came) <= p.n {
				t.Fatalf("%d requests", len(came))
			}
			for i := range p.n {
				if d := came[i+1].Sub(came[i]); d < time.Second-50*time.Millisecond {
					t.Errorf("asked again after %s", d)
				}
			}
		})
	}
}

// TestTokenServerPutsOff: the same holds for who gives tokens, with and without credentials.
func TestTokenServerPutsOff(t *testing.T) {
	for name, auth := range map[string]*cri.AuthConfig{"anonymous": nil, "user": {Username: "u", Password: "p"}} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			r.push(t, "test/img:v1", simple("one"))
			p := &putOffFirst{match: path("/token"), status: 429, after: seconds("1"), n: 2}
			r.inject(func(next http.Handler) http.Handler {
				return p.middleware(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					switch {
					case q.URL.Path == "/token" && q.Method == http.MethodPost && q.FormValue("password") != "p":
						w.WriteHeader(http.StatusUnauthorized)
					case q.URL.Path == "/token":
						_, _ = io.WriteString(w, `{"token":"t","access_token":"t"}`)
					case q.Header.Get("Authorization") != "Bearer t":
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="x"`)
						w.WriteHeader(http.StatusUnauthorized)
					default:
						next.ServeHTTP(w, q)
					}
				}))
			})
			if _, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/img:v1", Auth: auth}); err != nil {
				t.Fatal(err)
			}
			if came := p.times(); len(came) < 3 || came[2].Sub(came[0]) < 2*time.Second-100*time.Millisecond {
				t.Errorf("token server asked at %v", came)
			}
		})
	}
}

// TestRegistryPutsOffTooLong: the pull's patience with a silent registry is that with one that puts it off.
func TestRegistryPutsOffTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		after string
		limit time.Duration
		most  int // requests
	}{
		"a second, for ever":     {"1", 2500 * time.Millisecond, 3},
		"an hour":                {"3600", time.Minute, 1},
		"for ever":               {"99999999999999999", time.Minute, 1},
		"a date in a far future": {"Fri, 31 Dec 9999 23:59:59 GMT", time.Minute, 1},
	} {
		t.Run(strings.ReplaceAll(name, ",", ""), func(t *testing.T) {
			r, s := newRegistry(t), open(t, func(o *image.Options) { o.ProgressTimeout = c.limit })
			r.push(t, "test/img:v1", simple("one"))
			r.inject(always(429, "Retry-After", c.after))
			_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/img:v1"})
			if !errors.Is(err, crierrors.ErrRegistryUnavailable) || !strings.Contains(err.Error(), "429") {
				t.Errorf("error %v", err)
			}
			if n := len(r.requests()); n > c.most {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestCallerLeavesWhilePutOff: the wait ends with the pull.
func TestCallerLeavesWhilePutOff(t *testing.T) {
	r, s := newRegistry(t), open(t)
	r.push(t, "test/img:v1", simple("one"))
	r.inject(always(429, "Retry-After", "200"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Pull(ctx, image.Pull{Ref: r.host() + "/test/img:v1"})
		done <- err
	}()
	await.Until(t, 10*time.Second, "a request", func() bool { return len(r.requests()) > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestBusyMirror: another host is asked at once; only if that fails too is the mirror waited for.
func TestBusyMirror(t *testing.T) {
	for name, working := range map[string]bool{"another works": true, "no other works": false} {
		t.Run(name, func(t *testing.T) {
			mirror, r := newRegistry(t), newRegistry(t)
			mirror.push(t, "test/img:v1", simple("one"))
			r.push(t, "test/img:v1", simple("one"))
			p := &putOffFirst{match: func(*http.Request) bool { return true }, status: 429, after: seconds("1"), n: 1}
			mirror.inject(p.middleware)
			origin := r.URL
			if !working {
				origin = "http://127.0.0.1:1"
			}
			s := mirrored(t, time.Minute, mirror.URL, origin)
			s.pull(t, "registry.example/test/img:v1")
			if n := len(p.times()); working && n != 1 || !working && n < 3 {
				t.Errorf("%d requests to the mirror", n)
			}
		})
	}
}

// TestPullOnlyMirror can't say what a tag is: the registry that can, and is busy, is waited for.
func TestPullOnlyMirror(t *testing.T) {
	mirror, r := newRegistry(t), newRegistry(t)
	r.push(t, "test/img:v1", simple("one"))
	p := &putOffFirst{match: path("/manifests/v1"), status: 429, after: seconds("1"), n: 1}
	r.inject(p.middleware)
	s := mirrored(t, time.Minute, mirror.URL, r.URL)
	config := filepath.Join(s.registries, "registry.example", "hosts.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "server = %q\n[host.%q]\ncapabilities = [\"pull\"]\n", r.URL, mirror.URL), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pull(t, "registry.example/test/img:v1")
	if n := len(p.times()); n != 2 {
		t.Errorf("%d requests", n)
	}
}
