// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// label is the file in which the kernel tells a process its profile.
const label = "/proc/self/attr/current"

// confined is a daemon on a machine with AppArmor. The tests that use it change
// profiles of the whole machine, hence run with no other daemon beside them.
func confined(t *testing.T, env ...string) *nodetest.Node {
	t.Helper()
	nodetest.Require(t)
	if !sys.AppArmorEnabled() {
		t.Skip("needs AppArmor: switched on in the kernel, securityfs mounted")
	}
	if _, err := osexec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser")
	}
	d := nodetest.New(t, nodetest.Preload(t))
	d.Env = env
	d.StartFor(t)
	d.AwaitImage(t, nodetest.TestImage)
	return d
}

func appArmor(kind cri.SecurityProfile_ProfileType, ref string) func(s *cri.LinuxContainerSecurityContext) {
	return func(s *cri.LinuxContainerSecurityContext) {
		s.Apparmor = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
}

func privileged(change func(s *cri.LinuxContainerSecurityContext)) func(s *cri.LinuxContainerSecurityContext) {
	return func(s *cri.LinuxContainerSecurityContext) {
		change(s)
		s.Privileged = true
	}
}

// localProfile loads a profile of this node under which /tmp/denied cannot be written.
func localProfile(t *testing.T) string {
	t.Helper()
	const name = "cri-test-deny"
	parser := osexec.Command("apparmor_parser", "-Kr")
	parser.Stdin = strings.NewReader(fmt.Sprintf("profile %s flags=(attach_disconnected) {\n network,\n capability,\n file,\n umount,\n signal,\n ptrace,\n deny /tmp/denied w,\n}\n", name))
	if out, err := parser.CombinedOutput(); err != nil {
		t.Fatalf("load %s: %v: %s", name, err, out)
	}
	t.Cleanup(func() { unload(t, name) })
	return name
}

func unload(t *testing.T, profile string) {
	t.Helper()
	if err := os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(profile), 0); err != nil {
		t.Errorf("unload %s: %v", profile, err)
	}
}

func TestAppArmor(t *testing.T) {
	d := confined(t)
	pod, p := privilegedPod(t, d, "confined")
	local := localProfile(t)
	nothing := func(*cri.LinuxContainerSecurityContext) {}
	const enforced = confine.DefaultAppArmor + " (enforce)"
	for name, c := range map[string]struct {
		change func(s *cri.LinuxContainerSecurityContext)
		want   string
	}{
		"nothing said":          {nothing, enforced},
		"default":               {appArmor(cri.SecurityProfile_RuntimeDefault, ""), enforced},
		"default, deprecated":   {func(s *cri.LinuxContainerSecurityContext) { s.ApparmorProfile = "runtime/default" }, enforced},
		"unconfined":            {appArmor(cri.SecurityProfile_Unconfined, ""), "unconfined"},
		"localhost":             {appArmor(cri.SecurityProfile_Localhost, local), local + " (enforce)"},
		"localhost, deprecated": {func(s *cri.LinuxContainerSecurityContext) { s.ApparmorProfile = "localhost/" + local }, local + " (enforce)"},
		"privileged":            {privileged(nothing), "unconfined"},
		"privileged, default":   {privileged(appArmor(cri.SecurityProfile_RuntimeDefault, "")), "unconfined"},
		"privileged, localhost": {privileged(appArmor(cri.SecurityProfile_Localhost, local)), local + " (enforce)"},
		"no new privileges": {func(s *cri.LinuxContainerSecurityContext) {
			s.NoNewPrivs = true
			s.RunAsUser = &cri.Int64Value{Value: 1000}
		}, enforced},
	} {
		t.Run(name, func(t *testing.T) {
			out, st := secured(t, d, pod, p, c.change, "read", label)
			if st.ExitCode != 0 || strings.TrimSpace(out) != c.want {
				t.Errorf("it runs under %q, want %q (code %d, %s)", out, c.want, st.ExitCode, st.Message)
			}
		})
	}
	t.Run("default denies", func(t *testing.T) {
		out, st := secured(t, d, pod, p, nothing, "read", "/proc/sysrq-trigger")
		if st.ExitCode != 1 || !strings.Contains(out, "permission denied") {
			t.Errorf("reading a forbidden file ended with %d: %s", st.ExitCode, out)
		}
	})
	t.Run("localhost denies", func(t *testing.T) {
		out, st := secured(t, d, pod, p, appArmor(cri.SecurityProfile_Localhost, local), "write", "/tmp/denied", "x")
		if st.ExitCode != 1 || !strings.Contains(out, "permission denied") {
			t.Errorf("writing a forbidden file ended with %d: %s", st.ExitCode, out)
		}
	})
	t.Run("not loaded", func(t *testing.T) {
		c := inHostNet("missing")
		appArmor(cri.SecurityProfile_Localhost, "cri-no-such")(c.Linux.SecurityContext)
		refusedContainer(t, d, pod, c, codes.FailedPrecondition, "apparmor", "cri-no-such")
	})
	t.Run("status", func(t *testing.T) {
		r, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		contains(t, "status", r.Info["appArmor"], confine.DefaultAppArmor)
	})
	t.Run("pause", func(t *testing.T) {
		got, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pausePID(t, d, pod)))
		if strings.TrimSpace(string(got)) != enforced {
			t.Errorf("pause runs under %q, %v", got, err)
		}
	})
	t.Run("unloaded", func(t *testing.T) { unloaded(t, d, pod, p) })
}

// unloaded takes the default profile out of the kernel under the daemon, as the restart of a distribution's AppArmor
// service does: execs, starts and creates go on with it.
func unloaded(t *testing.T, d *nodetest.Node, pod string, p *cri.PodSandboxConfig) {
	runs := d.Run(t, pod, inHostNet("runs", "sleep"), p)
	created := d.Create(t, pod, inHostNet("created", "read", label), p)
	for what, act := range map[string]func() string{
		"exec": func() string { return exec(t, d, runs, "read", label) },
		"start": func() string {
			if _, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: created}); err != nil {
				t.Error(err)
			}
			d.AwaitExit(t, created)
			return d.LogOf(t, "created")
		},
		"create": func() string {
			out, _ := secured(t, d, pod, p, appArmor(cri.SecurityProfile_RuntimeDefault, ""), "read", label)
			return out
		},
	} {
		unload(t, confine.DefaultAppArmor)
		if got := act(); strings.TrimSpace(got) != confine.DefaultAppArmor+" (enforce)" {
			t.Errorf("%s after the profile was unloaded: runs under %q", what, got)
		}
	}
}

// TestAppArmorWithoutParser: a node whose default profile cannot be loaded says so once, and confines nobody who did
// not ask for it.
func TestAppArmorWithoutParser(t *testing.T) {
	if held, _ := sys.AppArmorLoaded(confine.DefaultAppArmor); held {
		unload(t, confine.DefaultAppArmor)
	}
	nowhere := t.TempDir()
	if crun, err := osexec.LookPath("crun"); err == nil { // it may be what runs the pods
		if err := os.Symlink(crun, filepath.Join(nowhere, "crun")); err != nil {
			t.Fatal(err)
		}
	}
	d := confined(t, "PATH="+nowhere)
	pod, p := privilegedPod(t, d, "without")
	out, st := secured(t, d, pod, p, func(*cri.LinuxContainerSecurityContext) {}, "read", label)
	if st.ExitCode != 0 || strings.TrimSpace(out) != "unconfined" {
		t.Errorf("a container that asks for nothing runs under %q", out)
	}
	c := inHostNet("asks")
	appArmor(cri.SecurityProfile_RuntimeDefault, "")(c.Linux.SecurityContext)
	refusedContainer(t, d, pod, c, codes.FailedPrecondition, confine.DefaultAppArmor, "apparmor_parser")
	if n := strings.Count(d.Log(), "level=WARN msg=\"containers that ask for no AppArmor profile"); n != 1 {
		t.Errorf("the log warns %d times", n)
	}
}

// TestAppArmorIsMissing: without AppArmor a request in so many words is refused, by name.
func TestAppArmorIsMissing(t *testing.T) {
	if sys.AppArmorEnabled() {
		t.Skip("this machine has AppArmor")
	}
	d := node(t)
	pod, _ := quickPod(t, d, "plain")
	c := inHostNet("asks")
	appArmor(cri.SecurityProfile_RuntimeDefault, "")(c.Linux.SecurityContext)
	refusedContainer(t, d, pod, c, codes.FailedPrecondition, "AppArmor")
}

func pausePID(t *testing.T, d *nodetest.Node, pod string) int {
	t.Helper()
	r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var i struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &i); err != nil {
		t.Fatal(err)
	}
	return i.PID
}
