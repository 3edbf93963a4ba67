// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// slowNetwork is a bridge network whose first plugin hangs or fails while there
// is a file named after the command.
func slowNetwork(t *testing.T, d *nodetest.Node) {
	t.Helper()
	plugin := fmt.Sprintf(`#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && exec echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
cat >%[1]s/stdin.$$
while [ -e %[1]s/hang-$CNI_COMMAND ]; do sleep 0.05; done
[ -e %[1]s/fail-$CNI_COMMAND ] && echo '{"cniVersion":"1.1.0","code":99,"msg":"cannot detach"}' && exit 1
[ "$CNI_COMMAND" = ADD ] && exec echo '{"cniVersion":"1.1.0","interfaces":[],"ips":[{"address":"10.99.0.2/24"}]}'
exit 0
`, d.Dir)
	conf := `{"cniVersion":"1.1.0","name":"cri-slow","plugins":[{"type":"cri-slow"}]}`
	if err := errors.Join(
		os.MkdirAll(filepath.Join(d.Dir, "cni"), 0o755), os.MkdirAll(filepath.Join(d.Dir, "plugins"), 0o755),
		os.WriteFile(filepath.Join(d.Dir, "plugins", "cri-slow"), []byte(plugin), 0o755),
		os.WriteFile(filepath.Join(d.Dir, "cni", "10-slow.conflist"), []byte(conf), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	d.Edit(t, "[cni]\n", fmt.Sprintf("[cni]\nbin_dir = [%q]\n", filepath.Join(d.Dir, "plugins")))
}

// TestNetworkPluginHangs lets a CNI plugin hang in each of its commands.
func TestNetworkPluginHangs(t *testing.T) {
	d := prepared(t, func(d *nodetest.Node) { slowNetwork(t, d) })
	at := func(command string) string { return filepath.Join(d.Dir, "hang-"+command) }
	t.Run("ADD", func(t *testing.T) {
		w := newSubject(t, d)
		w.config.PortMappings = nil
		hold(t, at("ADD"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config})
			return err
		})
		answers(t, d)
		nodetest.Eventually(t, 5*time.Second, "the log names the stage and how long it lasts", func() bool {
			return strings.Contains(d.Log(), `still at \"set up network and run pause\" for`)
		})
		time.AfterFunc(300*time.Millisecond, func() { letGo(at("ADD")) })
		if err := w.run(); err != nil { // joins
			t.Fatal(err)
		}
		if got := w.podState(); got != ready {
			t.Errorf("state %s", got)
		}
		w.removeAll()
	})
	t.Run("ADD and a restart", func(t *testing.T) {
		w := newSubject(t, d)
		w.config.PortMappings = nil
		hold(t, at("ADD"))
		hold(t, at("DEL"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config})
			return err
		})
		restart(t, d)
		answers(t, d)
		letGo(at("ADD"))
		letGo(at("DEL"))
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		w.removeAll()
	})
	t.Run("DEL", func(t *testing.T) {
		w := newSubject(t, d)
		w.config.PortMappings = nil
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		hold(t, at("DEL"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
			return err
		})
		answers(t, d)
		if got := w.podState(); got != notReady {
			t.Errorf("state %s while its network is not released", got)
		}
		restart(t, d)
		answers(t, d)
		letGo(at("DEL"))
		if err := w.removePod(); err != nil {
			t.Error(err)
		}
		if got := w.podState(); got != none {
			t.Errorf("state %s", got)
		}
	})
	t.Run("STATUS", func(t *testing.T) {
		hold(t, at("STATUS"))
		defer letGo(at("STATUS"))
		restart(t, d)
		for range 5 {
			answers(t, d)
		}
	})
}
