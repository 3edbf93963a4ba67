// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An update reaches the spec, the record, and while the container runs its runtime
// and its processes, those of later commands too.
func TestUpdate(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	w.must(w.UpdateResources(t.Context(), id, &cri.LinuxContainerResources{CpuShares: 100}))
	if n := len(w.node.Calls("update")); n != 0 {
		t.Errorf("%d calls of the runtime for what does not run", n)
	}
	w.must(w.Start(t.Context(), id))
	w.must(w.UpdateResources(t.Context(), id, &cri.LinuxContainerResources{CpuQuota: 5000, OomScoreAdj: 500}))
	c, calls := w.get(id), w.node.Calls("update")
	spec, err := w.Runtime.Spec(string(id))
	w.must(err)
	if len(calls) != 1 || c.Resources.Linux.CpuShares != 100 || c.Resources.Linux.CpuQuota != 5000 || *spec.Linux.Resources.CPU.Quota != 5000 {
		t.Errorf("calls %q, resources %v", calls, c.Resources)
	}
	if score, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.PID)); string(score) != "500\n" {
		t.Errorf("oom_score_adj %q", score)
	}
	r, err := w.ExecSync(t.Context(), id, sh("sleep 0.2; cat /proc/self/oom_score_adj"), 0)
	if err != nil || string(r.Stdout) != "500\n" {
		t.Errorf("of a command %q, %v", r.Stdout, err)
	}
	w.node.Fault("update", fakeruntime.Fail)
	err = w.UpdateResources(t.Context(), id, &cri.LinuxContainerResources{CpuQuota: 7000})
	if err == nil || !strings.Contains(err.Error(), "refused by the test") || w.get(id).Resources.Linux.CpuQuota != 5000 {
		t.Errorf("%v, resources %v", err, w.get(id).Resources)
	}
	w.must(w.Stop(t.Context(), id, 0))
	if err := w.UpdateResources(t.Context(), id, &cri.LinuxContainerResources{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of what has ended: %v", err)
	}
	if err := w.UpdateResources(t.Context(), state.ContainerID(state.NewID()), nil); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
}
