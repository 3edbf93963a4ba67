// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	osexec "os/exec"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCrun: the life of a pod under crun, which shares runc's command line and
// little else.
func TestCrun(t *testing.T) {
	crun, err := osexec.LookPath("crun")
	if err != nil {
		t.Skip("needs crun")
	}
	d := node(t, fmt.Sprintf("[runtime.handlers.crun]\npath = %q\n", crun))
	config := d.PodConfig("crun")
	r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: "crun"})
	if err != nil {
		t.Fatal(err)
	}
	pod := r.PodSandboxId
	id := d.Run(t, pod, nodetest.ContainerConfig("lives", "lines", "0", "20"), config)
	d.AwaitLog(t, "lives", "line 3")
	contains(t, "exec", exec(t, d, id, "echo", "hello"), "hello")
	if _, _, code := d.Exec(t, id, tb, "exit", "7"); code != 7 {
		t.Errorf("exec ended with %d", code)
	}
	_, err = d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such/program"}})
	code(t, err, codes.InvalidArgument, "/no/such/program")
	bounce(t, d, false, func() {})
	if st := d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig("ends", "exit", "3"), config)); st.ExitCode != 3 {
		t.Errorf("status %v", st)
	}
	missing := nodetest.ContainerConfig("missing")
	missing.Command = []string{"no-such-program"}
	_, err = d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: d.Create(t, pod, missing, config)})
	code(t, err, codes.InvalidArgument, "no-such-program")
	if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20},
	}); err != nil {
		t.Error(err)
	}
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// TestCrunIsTheDefault by one key: it is found as runc is, and runc stays a handler.
func TestCrunIsTheDefault(t *testing.T) {
	if _, err := osexec.LookPath("crun"); err != nil {
		t.Skip("needs crun")
	}
	d := node(t, "[runtime]\ndefault = \"crun\"\n")
	s, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, h := range s.RuntimeHandlers {
		names[h.Name] = true
	}
	if !names["crun"] || !names["runc"] || !names[""] {
		t.Errorf("handlers %v", s.RuntimeHandlers)
	}
	d.NothingLeft(t)
}
