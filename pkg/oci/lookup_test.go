// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

func TestLiveCDI(t *testing.T) {
	dir := t.TempDir()
	in := testInput()
	in.Lookup = oci.Live(t.Context(), dir)
	in.Config.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/gpu=0"}}
	_, err := oci.Container(in)
	refused(t, err)
	// A spec that turns up later is seen without a restart, and a broken one beside it does no harm.
	for name, text := range map[string]string{
		"gpu.json":    `{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","devices":[{"name":"0","containerEdits":{"env":["GPU=0"],"mounts":[{"hostPath":"/usr","containerPath":"/opt","options":["bind"]}]}}]}`,
		"broken.json": `{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := oci.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(spec.Process.Env, "GPU=0") {
		t.Errorf("env %v", spec.Process.Env)
	}
	valid(t, spec, nil)
}

func TestLiveSeccomp(t *testing.T) {
	in := testInput()
	in.Lookup = oci.Live(t.Context())
	in.Host.SeccompRoot = t.TempDir()
	security(&in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "a/b.json"}
	_, err := oci.Container(in)
	refused(t, err)
	file := filepath.Join(in.Host.SeccompRoot, "a/b.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ERRNO"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := oci.Container(in)
	if err != nil || spec.Linux.Seccomp.DefaultAction != "SCMP_ACT_ERRNO" {
		t.Errorf("spec %v, error %v", spec, err)
	}
}

func TestLivePropagation(t *testing.T) {
	p, err := oci.Live(t.Context()).Propagation(t.TempDir())
	if err != nil || p.Mount == "" {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := oci.Live(t.Context()).Propagation("/no/such/path"); err == nil {
		t.Error("a missing path has a mount")
	}
}

func BenchmarkContainer(b *testing.B) {
	in := testInput()
	security(&in).Seccomp = &cri.SecurityProfile{}
	for b.Loop() {
		if _, err := oci.Container(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPause(b *testing.B) {
	in := testPause()
	in.Config.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{}
	for b.Loop() {
		if _, err := oci.Pause(in); err != nil {
			b.Fatal(err)
		}
	}
}

// Whoever opens a FIFO waits until somebody writes to it, and a device may do anything.
func TestLiveSeccompOfNoFile(t *testing.T) {
	in := testInput()
	in.Lookup = oci.Live(t.Context())
	in.Host.SeccompRoot = t.TempDir()
	fifo := filepath.Join(in.Host.SeccompRoot, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("fifo", filepath.Join(in.Host.SeccompRoot, "link")); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"fifo", "link", fifo, "/dev/zero", "/dev/null", in.Host.SeccompRoot} {
		security(&in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}
		answer := make(chan error, 1)
		go func() {
			_, err := oci.Container(in)
			answer <- err
		}()
		select {
		case err := <-answer:
			refused(t, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no answer for a profile at %s", ref)
		}
	}
}
