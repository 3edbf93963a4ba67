// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/await"
)

// TestClockDoesNotEndAPull: what a pull has brought is its own until it ends, whatever the clock is set to meanwhile.
// After that a day on the clock takes what it left.
func TestClockDoesNotEndAPull(t *testing.T) {
	r := newRegistry(t)
	built, err := big(3 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	r.pushBuilt(t, "test/img:v1", built)
	layer := built.Layers[0].Digest
	half := make(chan struct{}, 100)
	r.inject(onBlob(layer, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", strconv.Itoa(len(built.Blobs[layer])))
		_, _ = w.Write(built.Blobs[layer][:2<<20])
		_ = http.NewResponseController(w).Flush()
		half <- struct{}{}
		<-q.Context().Done()
	}))
	s, ref := open(t), r.host()+"/test/img:v1"
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, image.Pull{Ref: ref})
		ended <- err
	}()
	<-half
	if got, err := image.Expiries(t.Context(), s.Service); err != nil || len(got) != 1 || got[0] != "" {
		t.Errorf("leases of a pull that runs end at %q, %v; want one that does not", got, err)
	}
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a pull that was cut off worked")
	}
	var expiry []string
	await.Until(t, 10*time.Second, "the lease of the pull that ended expires", func() bool {
		var err error
		expiry, err = image.Expiries(t.Context(), s.Service)
		return err == nil && len(expiry) == 1 && expiry[0] != ""
	})
	if at, err := time.Parse(time.RFC3339, expiry[0]); err != nil || time.Until(at) < 23*time.Hour || time.Until(at) > 25*time.Hour {
		t.Errorf("what it left is kept until %q, %v", expiry[0], err)
	}
	r.inject(nil)
	s.pull(t, ref)
	resumed := false
	for _, q := range r.requests() {
		resumed = resumed || strings.Contains(q, layer.String()) && strings.Contains(q, "bytes=")
	}
	if !resumed {
		t.Errorf("the next pull does not go on where it was: %q", r.requests())
	}
	if got, err := image.Expiries(t.Context(), s.Service); err != nil || len(got) != 0 {
		t.Errorf("leases after a pull that worked: %q, %v", got, err)
	}
}
