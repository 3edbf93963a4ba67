// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

// TestSteeringAnnotationsNeverPass: whoever writes a pod does not steer the runtime, however wide a handler's patterns
// are, with an annotation of pod or container.
func TestSteeringAnnotationsNeverPass(t *testing.T) {
	hostile := map[string]string{
		"org.systemd.property.ExecStopPost": "x", "org.systemd.property.": "x", "run.oci.seccomp_fail_unknown_syscall": "0",
		"run.oci.handler": "krun", "run.oci.hooks.stdout": "/etc/x", "org.criu.config": "/tmp/x", "bundle": "/tmp",
	}
	wide := []string{"*", "org.*", "run.*", "r?n.oci.*", "[a-z]*", "bundl[e]", "org.systemd.*"}
	for _, pattern := range wide {
		if err := oci.CheckAnnotationPattern(pattern); err != nil {
			t.Errorf("%v", err)
		}
	}
	in := testInput()
	in.PodAnnotations, in.ContainerAnnotations = wide, wide
	in.Sandbox.Annotations, in.Config.Annotations = maps.Clone(hostile), maps.Clone(hostile)
	in.Sandbox.Annotations["org.example"], in.Config.Annotations["bundle.example"] = "pod", "container"
	spec, err := oci.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	pause := testPause()
	pause.PodAnnotations, pause.Config.Annotations = wide, hostile
	held, err := oci.Pause(pause)
	if err != nil {
		t.Fatal(err)
	}
	for key := range hostile {
		for what, annotations := range map[string]map[string]string{"container": spec.Annotations, "pause": held.Annotations} {
			if value, ok := annotations[key]; ok {
				t.Errorf("%s has %s = %q", what, key, value)
			}
		}
	}
	if spec.Annotations["org.example"] != "pod" || spec.Annotations["bundle.example"] != "container" {
		t.Errorf("what was asked for is not there: %v", spec.Annotations)
	}
}

func TestAnnotationPatterns(t *testing.T) {
	for pattern, ok := range map[string]bool{
		"io.katacontainers.*": true, "dev.gvisor.spec.mount.*": true, "*": true, "a/b": true,
		"": false, "[": false, "run.oci.*": false, "run.oci.handler": false, "org.systemd.property.*": false, "org.criu.config": false, "bundle": false,
	} {
		if err := oci.CheckAnnotationPattern(pattern); (err == nil) != ok || !ok && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
