// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"io"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// TestUsersMistakesAreNoErrors: what users get wrong has a code and is not at
// level ERROR, and what comes with each probe and session is not at INFO.
func TestUsersMistakesAreNoErrors(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "mistakes")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	for i, program := range []string{"/no/such/program", "nope", "/etc"} {
		bad := inHostNet("bad")
		bad.Metadata.Attempt, bad.Command = uint32(i), []string{program}
		_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: d.Create(t, pod, bad, p)})
		code(t, err, codes.InvalidArgument, program)
		_, err = d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{program}})
		code(t, err, codes.InvalidArgument, program)
		stream(t, d.Runtime, id, program)
	}
	stream(t, d.Runtime, id, tb, "echo", "fine")
	_, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb, "sleep"}, Timeout: 1})
	code(t, err, codes.DeadlineExceeded)
	for line := range strings.Lines(d.Log()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "code=Unknown") {
			t.Errorf("a user's mistake: %s", line)
		}
		if !strings.Contains(line, "level=DEBUG") && (strings.Contains(line, "session ended") || strings.Contains(line, "rpc=ExecSync")) {
			t.Errorf("nothing an operator acts on: %s", line)
		}
	}
}

// stream runs a command the way kubectl exec does, whatever comes of it.
func stream(t *testing.T, c cri.RuntimeServiceClient, container string, command ...string) {
	t.Helper()
	r, err := c.Exec(t.Context(), &cri.ExecRequest{ContainerId: container, Cmd: command, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	_ = e.StreamWithContext(nodetest.Within(t, patience), remotecommand.StreamOptions{Stdout: io.Discard})
}
