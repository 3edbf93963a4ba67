// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hold makes path a file whose existence makes a neighbour hang.
func hold(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func letGo(path string) { os.Remove(path) }

// answers fails when what must not wait for a neighbour does.
func answers(t *testing.T, d *nodetest.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, statusErr := d.Runtime.Status(ctx, &cri.StatusRequest{})
	_, podsErr := d.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	_, containersErr := d.Runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	_, imagesErr := d.Images.ListImages(ctx, &cri.ListImagesRequest{})
	if err := errors.Join(statusErr, podsErr, containersErr, imagesErr); err != nil {
		t.Errorf("does not answer beside a neighbour that hangs: %v", err)
	}
}

// impatient runs a request with little time. Its own deadline hides the
// daemon's answer from it, which names the stage: the daemon's log has that.
func impatient(t *testing.T, do func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := do(ctx)
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("answered %v, want DeadlineExceeded", err)
	}
}

// restart kills the daemon and starts it anew. It answers although what it
// has to undo hangs.
func restart(t *testing.T, d *nodetest.Node) {
	t.Helper()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the restart took %s", took)
	}
}
