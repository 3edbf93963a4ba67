// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// TestProtectionIsNotInherited: a plugin of a daemon that the OOM killer spares is like any other process.
func TestProtectionIsNotInherited(t *testing.T) {
	const adj = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(adj)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(adj, []byte("-500"), 0); err != nil {
		t.Skipf("needs CAP_SYS_RESOURCE: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(adj, before, 0); err != nil {
			t.Error(err)
		}
	})
	var inherited []byte
	if err := sys.Unprotected(func() error {
		inherited, err = exec.Command("cat", adj).Output()
		return err
	}); err != nil || strings.TrimSpace(string(inherited)) != "0" {
		t.Errorf("a library's child has oom_score_adj %q, %v", inherited, err)
	}
	if own, err := os.ReadFile(adj); strings.TrimSpace(string(own)) != "-500" {
		t.Errorf("the process itself has oom_score_adj %s afterwards, %v", own, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The value changes while the child runs already.
	out, err := program.Command{
		Path: "/bin/sh", Args: []string{"-c", "until [ \"$v\" = 0 ]; do read v <" + adj + "; done"}, Env: os.Environ(),
	}.Run(ctx)
	if err != nil || out.Code != 0 {
		t.Errorf("the child's oom_score_adj does not become 0: code %d, %v", out.Code, err)
	}
}
