// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// addSpec makes a bundle whose spec has an environment of so many bytes, each of which takes six in JSON.
func addSpec(t *testing.T, n *node, id string, env int) {
	t.Helper()
	data, err := json.Marshal(specs.Spec{Version: "1.2.0", Process: &specs.Process{Env: []string{strings.Repeat("<", env)}}})
	if err != nil {
		t.Fatal(err)
	}
	bundle := n.layout.Bundle(id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A verbose status leaves out what makes the answer larger than clients take, and says so while there is room for that.
func TestVerboseStatusFits(t *testing.T) {
	n := openNode(t)
	for name, tt := range map[string]struct {
		env, annotation int
		spec, rest      bool
	}{
		"small":                           {env: 100, spec: true, rest: true},
		"large environment":               {env: 3 << 20, rest: true},
		"both large":                      {env: 1 << 20, annotation: 12 << 20, rest: true},
		"the status alone fills it":       {env: 100, annotation: server.MaxMessage - 600},
		"large, but there is room":        {env: 2 << 20, spec: true, rest: true},
		"large status, but there is room": {env: 100, annotation: 12 << 20, spec: true, rest: true},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{"a": strings.Repeat("a", tt.annotation)}
			p := testPod(name)
			p.Config.Annotations = annotations
			p = n.addPod(t, p)
			c := testContainer(p, name)
			c.Config.Annotations = annotations
			c = n.addContainer(t, c, state.Prepared)
			addSpec(t, n, string(p.ID), tt.env)
			addSpec(t, n, string(c.ID), tt.env)
			pod, err := n.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: string(p.ID), Verbose: true})
			if err != nil {
				t.Fatal(err)
			}
			own, err := n.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: string(c.ID), Verbose: true})
			if err != nil {
				t.Fatal(err)
			}
			wantInfo(t, pod, pod.Info["info"], tt.spec, tt.rest)
			wantInfo(t, own, own.Info["info"], tt.spec, tt.rest)
		})
	}
}

func wantInfo(t *testing.T, answer proto.Message, info string, spec, rest bool) {
	t.Helper()
	if size := proto.Size(answer); size > server.MaxMessage {
		t.Errorf("%T of %d bytes", answer, size)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(info), &got); (err == nil) != rest {
		t.Fatalf("%T: info of %d bytes: %v, want some: %t", answer, len(info), err, rest)
	}
	if (got["runtimeSpec"] != nil) != spec || (got["runtimeSpecOmitted"] != nil) != (rest && !spec) || (got["bundle"] != nil) != rest {
		t.Errorf("%T: info %.200s, want the spec: %t, the rest: %t", answer, info, spec, rest)
	}
}
