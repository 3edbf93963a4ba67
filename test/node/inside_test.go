// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/node"
)

// TestInside leaves things in namespaces of another process: they are a node's that lives there, and no other's.
func TestInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts and makes namespaces")
	}
	dir := t.TempDir()
	pinned := state.Layout{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")}.NetNSPrefix() + "0123"
	holder := exec.Command("unshare", "--mount", "--net", "--uts", "sh", "-ec", fmt.Sprintf(
		"mkdir %[1]s/mnt; mount -t tmpfs none %[1]s/mnt; mount -t tmpfs none %[2]s; touch %[3]s; ip link add %[4]s type bridge; echo ready; exec sleep 60",
		dir, state.NetNSDir, pinned, bridgeName))
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("holder says %q: %v", line, err)
	}
	for _, inside := range []int{0, holder.Process.Pid} {
		n, err := node.New(node.Options{
			Kind: node.CRIShim, Dir: dir, Inside: inside, Network: node.Network{Default: true, Bridge: bridgeName, Subnet: "10.199.7.0/24"},
		})
		if err != nil {
			t.Fatal(err)
		}
		found, err := n.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []node.Item{
			{Kind: "mount", Name: filepath.Join(dir, "mnt")},
			{Kind: "network namespace", Name: pinned},
			{Kind: "interface", Name: "bridge " + bridgeName, Span: node.OfNode},
		} {
			if got, want := found[i], min(inside, 1); got != want {
				t.Errorf("inside %d: found %d times, want %d: %s", inside, got, want, i)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}
