// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// TestKillsWithMasquerading kills daemon and monitor while pods come and go on
// networks whose plugins make rules for each pod, in many steps. No rule may be
// left of a pod that is gone.
func TestKillsWithMasquerading(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			seed := nodetest.Number("CRASH_SEED", uint64(time.Now().UnixNano()))
			kills := int(nodetest.Number("CRASH_KILLS", shortKills))
			t.Logf("%d kills; repeat with CRASH_KILLS=%d CRASH_SEED=%d", kills, kills, seed)
			d := prepared(t, func(d *nodetest.Node) { masqueradingNetwork(t, d, backend) })
			c := &churn{Node: d, t: t}
			c.port.Store(20000 + rand.Int32N(10000))
			warm(t, d)
			clean := d.Look(t)
			ctx, stop := context.WithCancel(t.Context())
			c.over = ctx
			var load sync.WaitGroup
			c.runPods(&load, seed)
			c.kill(kills, rand.New(rand.NewPCG(seed, 1000)))
			stop()
			load.Wait()
			t.Logf("%d pods, %d exit codes, %d requests repeated", c.seen.pods.Load(), c.seen.exits.Load(), c.seen.retries.Load())
			d.AwaitSame(t, clean, "after the load")
		})
	}
}

// masqueradingNetwork gives the daemon a configuration as administrators write it.
func masqueradingNetwork(t *testing.T, d *nodetest.Node, backend string) {
	t.Helper()
	dir := filepath.Join(d.Dir, "cni")
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"masquerading","plugins":[
	{"type":"bridge","bridge":%[1]q,"isGateway":true,"ipMasq":true,"ipMasqBackend":%[2]q,
	 "ipam":{"type":"host-local","dataDir":%[3]q,"ranges":[[{"subnet":%[4]q}]],"routes":[{"dst":"0.0.0.0/0"}]}},
	{"type":"portmap","capabilities":{"portMappings":true},"backend":%[2]q},
	{"type":"firewall","backend":"iptables"}]}`, d.Network.Bridge, backend, filepath.Join(d.Dir, "root", "ipam"), d.Network.Subnet)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "10-masquerading.conflist"), []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
}
