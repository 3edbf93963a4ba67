// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestUnkillableContainer freezes the cgroup above a container, so that SIGKILL
// has no effect on it, as on a process that waits for a dead disk. Its own cgroup
// would be thawed.
func TestUnkillableContainer(t *testing.T) {
	d := start(t)
	warm(t, d)
	clean := d.Look(t)
	w := started(t, d)
	freezer := fmt.Sprintf("/sys/fs/cgroup/freezer/cri-%s/freezer.state", w.pod)
	if _, err := os.Stat(freezer); err != nil {
		t.Skip("no cgroup v1 freezer to make a process unkillable with")
	}
	set := func(state string) {
		if err := os.WriteFile(freezer, []byte(state), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("FROZEN")
	thawed := false
	defer func() {
		if !thawed {
			set("THAWED")
		}
	}()
	began := time.Now()
	err := w.kill()
	if err == nil || !strings.Contains(err.Error(), "after SIGKILL") || !strings.Contains(err.Error(), "uninterruptible") {
		t.Errorf("stop of a frozen container, after %s: %v", time.Since(began), err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %s to say so", took)
	}
	answers(t, d)
	impatient(t, func(ctx context.Context) error {
		_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
		return err
	})
	restart(t, d)
	answers(t, d)
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the daemon does not stop beside a frozen container")
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	set("THAWED")
	thawed = true
	w.clear(clean)
}
