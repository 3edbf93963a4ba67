// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"encoding/json"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

func TestOOMScoreAdjIsClamped(t *testing.T) {
	in := testInput()
	in.Host.OOMScoreAdjMin = -500
	for asked, want := range map[int64]int{-997: -500, -500: -500, 0: 0, 1000: 1000} {
		in.Config.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: asked}
		spec, err := oci.Container(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := *spec.Process.OOMScoreAdj; got != want {
			t.Errorf("%d became %d, want %d", asked, got, want)
		}
	}
}

func TestRlimitsAreClamped(t *testing.T) {
	in := testInput()
	in.Host.RlimitMax = map[string]uint64{"RLIMIT_NOFILE": 20000, "RLIMIT_NPROC": 100, "RLIMIT_STACK": 4 << 20}
	spec, err := oci.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range spec.Process.Rlimits {
		if most, ok := in.Host.RlimitMax[l.Type]; ok && (l.Hard != most || l.Soft > l.Hard) {
			t.Errorf("%+v is above %d", l, most)
		}
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestTasksHaveNoLimitOfSystemd(t *testing.T) {
	for name, c := range map[string]struct {
		systemd bool
		unified map[string]string
		want    string
	}{
		"systemd has one":   {true, nil, `{"limit":-1}`},
		"cgroupfs has none": {false, nil, "null"},
		"one was asked for": {true, map[string]string{"pids.max": "7"}, "null"},
		"another is not it": {true, map[string]string{"cpu.idle": "1"}, `{"limit":-1}`},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			in.Host.Systemd = c.systemd
			in.Config.Linux.Resources = &cri.LinuxContainerResources{Unified: c.unified}
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := marshal(t, spec.Linux.Resources.Pids); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
