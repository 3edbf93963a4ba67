// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/stats"
)

// TestAccount: what the runtime says stands for the cgroup's figures, and what it
// does not say is left out.
func TestAccount(t *testing.T) {
	s := stats.New(stats.Options{CgroupRoot: t.TempDir()})
	got, err := s.Containers(t.Context(), []stats.Container{
		{ID: "told", Account: func(context.Context) (stats.Account, error) { return stats.Account{CPU: 7, Memory: 9}, nil }},
		{ID: "untold", Account: func(context.Context) (stats.Account, error) { return stats.Account{}, errors.New("no sandbox") }},
	})
	if err != nil {
		t.Fatal(err)
	}
	told, untold := got[0], got[1]
	if told.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 7 || told.GetMemory().GetWorkingSetBytes().GetValue() != 9 {
		t.Errorf("told: %v", told)
	}
	if untold.Cpu != nil || untold.Memory != nil {
		t.Errorf("untold: %v", untold)
	}
}
