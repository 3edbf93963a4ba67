// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/imagestore"
)

const secret = "s3cr3t-W0rd"

// basic lets only user:s3cr3t-W0rd in and counts the others that tried with something.
func basic(wrong *atomic.Int32) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, pass, ok := r.BasicAuth()
			if user == "user" && pass == secret {
				next.ServeHTTP(w, r)
				return
			}
			if ok {
				wrong.Add(1)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	}
}

// bearer lets only a token in, and says where to get one.
func bearer(realm, token string) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer "+token {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
		})
	}
}

func TestPullBasicAuth(t *testing.T) {
	r := newRegistry(t)
	r.push(t, "test/img:v1", simple("x"))
	var wrong atomic.Int32
	r.inject(basic(&wrong))
	ref := r.host() + "/test/img:v1"
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		auth *cri.AuthConfig
		want error
	}{
		"password":         {&cri.AuthConfig{Username: "user", Password: secret}, nil},
		"auth":             {&cri.AuthConfig{Auth: b64("user:" + secret)}, nil},
		"auth padded":      {&cri.AuthConfig{Auth: b64("user:" + secret + "\x00\x00")}, nil},
		"server":           {&cri.AuthConfig{Username: "user", Password: secret, ServerAddress: r.host()}, nil},
		"server as URL":    {&cri.AuthConfig{Username: "user", Password: secret, ServerAddress: r.URL + "/v2/"}, nil},
		"none":             {nil, errdefs.ErrUnauthenticated},
		"empty":            {&cri.AuthConfig{}, errdefs.ErrUnauthenticated},
		"another server's": {&cri.AuthConfig{Username: "user", Password: secret, ServerAddress: "registry.example"}, errdefs.ErrUnauthenticated},
		"wrong password":   {&cri.AuthConfig{Username: "user", Password: secret + "!"}, errdefs.ErrUnauthenticated},
		"no base64":        {&cri.AuthConfig{Auth: "%" + secret}, errdefs.ErrInvalidArgument},
		"no colon":         {&cri.AuthConfig{Auth: b64(secret)}, errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			wrong.Store(0)
			_, err := s.Pull(t.Context(), image.Pull{Ref: ref, Auth: c.auth})
			if (c.want == nil) != (err == nil) || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if name == "another server's" && wrong.Load() != 0 {
				t.Error("credentials went to a server they are not for")
			}
			for _, text := range []string{s.Log.String(), fmt.Sprint(err)} {
				if strings.Contains(text, secret) || strings.Contains(text, b64(secret)) {
					t.Errorf("secret in %q", text)
				}
			}
		})
	}
}

func TestPullTokens(t *testing.T) {
	r := newRegistry(t)
	r.push(t, "test/img:v1", simple("x"))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		user, pass, _ := q.BasicAuth()
		oauth := q.Method == http.MethodPost && q.FormValue("grant_type") == "refresh_token" && q.FormValue("refresh_token") == secret
		oauth = oauth || q.FormValue("grant_type") == "password" && q.FormValue("username") == "user" && q.FormValue("password") == secret
		if !oauth && (user != "user" || pass != secret) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "short-lived", "access_token": "short-lived"})
	}))
	defer issuer.Close()
	ref := r.host() + "/test/img:v1"
	for name, c := range map[string]struct {
		token string
		auth  *cri.AuthConfig
		ok    bool
	}{
		"password":             {"short-lived", &cri.AuthConfig{Username: "user", Password: secret}, true},
		"identity token":       {"short-lived", &cri.AuthConfig{IdentityToken: secret}, true},
		"wrong identity token": {"short-lived", &cri.AuthConfig{IdentityToken: "x"}, false},
		"registry token":       {secret, &cri.AuthConfig{RegistryToken: secret}, true},
		"wrong registry token": {secret, &cri.AuthConfig{RegistryToken: "x"}, false},
		"another's token":      {secret, &cri.AuthConfig{RegistryToken: secret, ServerAddress: "registry.example"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			r.inject(bearer(issuer.URL, c.token))
			_, err := s.Pull(t.Context(), image.Pull{Ref: ref, Auth: c.auth})
			if (err == nil) != c.ok || (err != nil && !errors.Is(err, errdefs.ErrUnauthenticated)) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(fmt.Sprint(err)+s.Log.String(), secret) {
				t.Errorf("secret in %v or %s", err, s.Log)
			}
		})
	}
}

// TestRedirectGetsNoCredentials: a registry may redirect to a blob store that asks for a password.
func TestRedirectGetsNoCredentials(t *testing.T) {
	r, s := newRegistry(t), open(t)
	b, err := simple("x").Build()
	if err != nil {
		t.Fatal(err)
	}
	r.pushBuilt(t, "test/img:v1", b)
	var sent atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "" {
			sent.Add(1)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="phish"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer other.Close()
	var wrong atomic.Int32
	redirect := onBlob(b.Layers[0].Digest, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		http.Redirect(w, q, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/blob?X-Signature="+secret, http.StatusTemporaryRedirect)
	})
	r.inject(func(next http.Handler) http.Handler { return basic(&wrong)(redirect(next)) })
	_, err = s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/img:v1", Auth: &cri.AuthConfig{Username: "user", Password: secret}})
	if err == nil || sent.Load() != 0 {
		t.Errorf("error %v, %d requests with credentials", err, sent.Load())
	}
	if strings.Contains(fmt.Sprint(err)+s.Log.String(), secret) {
		t.Errorf("signed address in %v or %s", err, s.Log)
	}
}

func TestPullMirrors(t *testing.T) {
	mirror, upstream := newRegistry(t), newRegistry(t)
	mirror.push(t, "test/img:v1", simple("from the mirror"))
	upstream.push(t, "test/img:v1", simple("from upstream"))
	upstream.push(t, "test/other:v1", simple("only upstream"))
	certs := t.TempDir()
	write := func(first string) {
		t.Helper()
		d := filepath.Join(certs, "registry.example")
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		toml := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", upstream.URL, first)
		if err := os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(toml), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, func(o *image.Options) { o.RegistryConfig = certs })
	content := func(ref string) string {
		t.Helper()
		id := s.pull(t, ref)
		return imagestore.Read(t, filepath.Join(s.Mount(t, id[7:], rootfs.From{ImageID: id}), "etc/name"))
	}
	write(mirror.URL)
	if got := content("registry.example/test/img:v1"); got != "from the mirror" {
		t.Errorf("got %q", got)
	}
	if got := content("registry.example/test/other:v1"); got != "only upstream" {
		t.Errorf("not in the mirror: got %q", got)
	}
	write("http://127.0.0.1:1") // read again at the next pull; a dead mirror is passed over
	if got := content("registry.example/test/img:v1"); got != "from upstream" {
		t.Errorf("after the change: got %q", got)
	}
	img := s.get(t, "registry.example/test/img:v1")
	if len(img.RepoTags) != 1 || img.RepoTags[0] != "registry.example/test/img:v1" {
		t.Errorf("tags %q", img.RepoTags)
	}
}

func TestPullsJoin(t *testing.T) {
	r, s := newRegistry(t), open(t)
	b, err := big(1 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	r.pushBuilt(t, "test/img:v1", b)
	ref, open := r.host()+"/test/img:v1", make(chan struct{})
	var gets atomic.Int32
	r.inject(onBlob(b.Layers[0].Digest, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		gets.Add(1)
		<-open
		next.ServeHTTP(w, q)
	}))
	var wg sync.WaitGroup
	for i := range 8 {
		p := image.Pull{Ref: ref}
		if i%2 == 1 {
			p.Auth = &cri.AuthConfig{Username: fmt.Sprint(i), Password: "x"} // pulls of its own, but shared blobs
		}
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	await.Until(t, 10*time.Second, "a blob is asked for", func() bool { return gets.Load() > 0 })
	<-time.After(50 * time.Millisecond)
	close(open)
	wg.Wait()
	heads := 0
	for _, q := range r.requests() {
		if strings.HasPrefix(q, "HEAD /v2/test/img/manifests/v1") {
			heads++
		}
	}
	if gets.Load() != 1 || heads != 5 {
		t.Errorf("%d downloads and %d look-ups for 8 pulls with 5 credentials, want 1 and 5", gets.Load(), heads)
	}
}
