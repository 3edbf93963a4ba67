// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// annotationsOf are those in the spec of what a verbose status describes.
func annotationsOf(t *testing.T, info map[string]string) map[string]string {
	t.Helper()
	var i struct {
		RuntimeSpec struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"runtimeSpec"`
	}
	if err := json.Unmarshal([]byte(info["info"]), &i); err != nil {
		t.Fatal(err)
	}
	return i.RuntimeSpec.Annotations
}

// A handler sees the annotations that its configuration names, pause and
// containers those of the pod, and none that steers the runtime.
func TestAnnotationsOfHandler(t *testing.T) {
	d := node(t, "[runtime.handlers.runc]\npod_annotations = [\"dev.example.*\", \"*property*\"]\ncontainer_annotations = [\"dev/*\"]\n")
	config := hostNet(d.PodConfig("annotated"))
	config.Annotations = map[string]string{"dev.example.a/b": "1", "dev/pod": "2", "org.systemd.property.ExecStopPost": "evil"}
	made, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: "runc"})
	if err != nil {
		t.Fatal(err)
	}
	pod := made.PodSandboxId
	defer removePod(t, d, pod)
	c := inHostNet("annotated", "sleep")
	c.Annotations = map[string]string{"dev/gpu": "3", "dev.example.own": "4", "org.systemd.property.ExecStopPost": "evil"}
	id := d.Run(t, pod, c, config)
	p, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]map[string]string{"pause": annotationsOf(t, p.Info), "container": annotationsOf(t, r.Info)} {
		want := map[string]string{"dev.example.a/b": "1", "dev/pod": "", "dev.example.own": "", "dev/gpu": "", "org.systemd.property.ExecStopPost": ""}
		if what == "container" {
			want["dev/gpu"] = "3"
		}
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s: %s is %q, want %q", what, key, got[key], value)
			}
		}
	}
}

func TestCDIDirectories(t *testing.T) {
	t.Parallel()
	d := edited(t, func(d *nodetest.Node, config string) string {
		dir := filepath.Join(d.Dir, "devices")
		mustMkdir(t, dir)
		mustWrite(t, filepath.Join(dir, "thing.json"), `{"cdiVersion":"0.6.0","kind":"example.test/thing","devices":[{"name":"one","containerEdits":{"env":["THING=one"]}}]}`)
		return config + fmt.Sprintf("\n[cdi]\nspec_dirs = [%q]\n", dir)
	}, nodetest.Preload(t))
	d.AwaitImage(t, nodetest.TestImage)
	pod, p := quickPod(t, d, "devices")
	c := inHostNet("has", "env")
	c.CDIDevices = []*cri.CDIDevice{{Name: "example.test/thing=one"}}
	contains(t, "environment", output(t, d, pod, c, p), "THING=one")
}

// What [nri.default_validator] asks for holds: no container without the plugins
// that must be there, unless its pod tolerates that.
func TestRequiredPlugin(t *testing.T) {
	t.Parallel()
	d := edited(t, func(_ *nodetest.Node, config string) string {
		return strings.Replace(config, "[nri]\nenable = false", "[nri]\nenable = true", 1) +
			"\n[nri.default_validator]\nenable = true\nrequired_plugins = [\"guard\"]\ntolerate_missing_plugins_annotation = \"example.test/tolerate\"\n"
	}, nodetest.Preload(t))
	d.AwaitImage(t, nodetest.TestImage)
	pod, _ := quickPod(t, d, "guarded")
	refusedContainer(t, d, pod, inHostNet("guarded"), codes.FailedPrecondition, "guard")
	config := hostNet(d.PodConfig("tolerant"))
	config.Annotations = map[string]string{"example.test/tolerate": "true"}
	output(t, d, d.Pod(t, config), inHostNet("tolerant", "exit", "0"), config)
}
