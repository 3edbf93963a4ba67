// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// secured runs `testbox id` or args with a security context that change made.
func secured(t *testing.T, d *nodetest.Node, pod string, p *cri.PodSandboxConfig, change func(s *cri.LinuxContainerSecurityContext), args ...string) (string, *cri.ContainerStatus) {
	t.Helper()
	name := strings.NewReplacer("/", "-", " ", "-", "#", "-").Replace(t.Name())
	c := inHostNet(name, append([]string{"id"}, args...)...)
	if len(args) > 0 {
		c.Args = args
	}
	change(c.Linux.SecurityContext)
	id := d.Run(t, pod, c, p)
	st := d.AwaitExit(t, id)
	return d.LogOf(t, name), st
}

// privilegedPod may have privileged containers.
func privilegedPod(t *testing.T, d *nodetest.Node, name string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	config := hostNet(d.PodConfig(name))
	config.Linux.SecurityContext.Privileged = true
	return d.Pod(t, config), config
}

// field reads a set of capabilities from the status of a process.
func field(t *testing.T, text, name string) uint64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in\n%s", name, text)
	return 0
}

func TestCapabilities(t *testing.T) {
	d := node(t)
	pod, p := privilegedPod(t, d, "caps")
	const netAdmin, chown, netBind, sysAdmin = 1 << unix.CAP_NET_ADMIN, 1 << unix.CAP_CHOWN, 1 << unix.CAP_NET_BIND_SERVICE, 1 << unix.CAP_SYS_ADMIN
	for _, c := range []struct {
		name   string
		change func(s *cri.LinuxContainerSecurityContext)
		check  func(eff, bnd, amb uint64) bool
	}{
		{"default", func(*cri.LinuxContainerSecurityContext) {}, func(eff, _, amb uint64) bool { return eff&chown != 0 && eff&sysAdmin == 0 && amb == 0 }},
		{"add", func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}
		}, func(eff, bnd, _ uint64) bool { return eff&netAdmin != 0 && bnd&netAdmin != 0 }},
		{"drop", func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{DropCapabilities: []string{"CHOWN"}}
		}, func(eff, bnd, _ uint64) bool { return eff&chown == 0 && bnd&chown == 0 && eff != 0 }},
		{"drop all, add one", func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"net_bind_service"}}
		}, func(eff, bnd, _ uint64) bool { return eff == netBind && bnd == netBind }},
		{"ambient for a user", func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser = &cri.Int64Value{Value: 1000}
			s.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}, func(eff, _, amb uint64) bool { return amb == netBind && eff == netBind }},
		{
			"none for a user", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = &cri.Int64Value{Value: 1000} },
			func(eff, _, _ uint64) bool { return eff == 0 },
		},
		{"privileged", func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true }, func(eff, bnd, _ uint64) bool {
			return eff == bnd && eff == ownBounding(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _ := secured(t, d, pod, p, c.change)
			if eff, bnd, amb := field(t, out, "CapEff"), field(t, out, "CapBnd"), field(t, out, "CapAmb"); !c.check(eff, bnd, amb) {
				t.Errorf("effective %x, bounding %x, ambient %x", eff, bnd, amb)
			}
		})
	}
}

// ownBounding is what this machine lets anybody have.
func ownBounding(t *testing.T) uint64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return field(t, string(data), "CapBnd")
}

func TestSeccomp(t *testing.T) {
	d := node(t)
	pod, p := privilegedPod(t, d, "seccomp")
	profile := filepath.Join(d.Dir, "profile.json")
	mustWrite(t, profile, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}`)
	with := func(kind cri.SecurityProfile_ProfileType, ref string) func(s *cri.LinuxContainerSecurityContext) {
		return func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
		}
	}
	for name, want := range map[string]struct {
		change func(s *cri.LinuxContainerSecurityContext)
		mode   string
	}{
		"default":    {with(cri.SecurityProfile_RuntimeDefault, ""), "Seccomp:\t2"},
		"unconfined": {with(cri.SecurityProfile_Unconfined, ""), "Seccomp:\t0"},
		"localhost":  {with(cri.SecurityProfile_Localhost, profile), "Seccomp:\t2"},
		"privileged": {func(s *cri.LinuxContainerSecurityContext) {
			s.Privileged = true
			with(cri.SecurityProfile_RuntimeDefault, "")(s)
		}, "Seccomp:\t0"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := secured(t, d, pod, p, want.change)
			contains(t, "status", out, want.mode)
		})
	}
	t.Run("blocks", func(t *testing.T) {
		out, st := secured(t, d, pod, p, with(cri.SecurityProfile_Localhost, profile), "mkdir", "/tmp/dir")
		if st.ExitCode != 1 || !strings.Contains(out, "permission denied") {
			t.Errorf("a forbidden call ended with %d: %s", st.ExitCode, out)
		}
	})
	t.Run("allows without", func(t *testing.T) {
		if out, st := secured(t, d, pod, p, with(cri.SecurityProfile_Unconfined, ""), "mkdir", "/tmp/dir"); st.ExitCode != 0 {
			t.Errorf("without a profile: %d, %s", st.ExitCode, out)
		}
	})
	t.Run("broken profile", func(t *testing.T) {
		mustWrite(t, profile+".bad", "{")
		c := inHostNet("broken")
		with(cri.SecurityProfile_Localhost, profile+".bad")(c.Linux.SecurityContext)
		refusedContainer(t, d, pod, c, codes.InvalidArgument, profile+".bad")
	})
}

func TestConfinement(t *testing.T) {
	d := node(t)
	pod, p := privilegedPod(t, d, "confined")
	nothing := func(*cri.LinuxContainerSecurityContext) {}
	t.Run("no new privileges", func(t *testing.T) {
		out, _ := secured(t, d, pod, p, func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = true })
		contains(t, "status", out, "NoNewPrivs:\t1")
	})
	t.Run("new privileges", func(t *testing.T) {
		out, _ := secured(t, d, pod, p, nothing)
		contains(t, "status", out, "NoNewPrivs:\t0")
	})
	t.Run("read-only root", func(t *testing.T) {
		out, st := secured(t, d, pod, p, func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }, "write", "/tmp/x", "y")
		if st.ExitCode != 1 || !strings.Contains(out, "read-only file system") {
			t.Errorf("writing to a read-only root: %d, %s", st.ExitCode, out)
		}
	})
	t.Run("masked", func(t *testing.T) {
		out, _ := secured(t, d, pod, p, func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"/etc/passwd"} }, "read", "/etc/passwd")
		if strings.Contains(out, "root") {
			t.Errorf("a masked file reads %q", out)
		}
	})
	t.Run("read-only path", func(t *testing.T) {
		out, st := secured(t, d, pod, p, func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyPaths = []string{"/etc"} }, "write", "/etc/x", "y")
		if st.ExitCode != 1 || !strings.Contains(out, "read-only file system") {
			t.Errorf("writing to a read-only path: %d, %s", st.ExitCode, out)
		}
	})
	t.Run("privileged", func(t *testing.T) {
		out, st := secured(t, d, pod, p, func(s *cri.LinuxContainerSecurityContext) {
			s.Privileged, s.MaskedPaths = true, []string{"/etc/passwd"}
		}, "stat", "/dev/null", "/dev/kmsg", "/etc/passwd")
		if st.ExitCode != 0 {
			t.Errorf("a privileged container: %s", out)
		}
	})
	t.Run("privileged in a pod that is not", func(t *testing.T) {
		plain, _ := quickPod(t, d, "plain")
		c := inHostNet("climber")
		c.Linux.SecurityContext.Privileged = true
		refusedContainer(t, d, plain, c, codes.InvalidArgument, "privileged")
	})
	t.Run("unprivileged sees no devices", func(t *testing.T) {
		if out, st := secured(t, d, pod, p, nothing, "stat", "/dev/kmsg"); st.ExitCode == 0 {
			t.Errorf("an unprivileged container has %s", out)
		}
	})
}

// Users and groups as the image's files have them: web is 1000:1001 and a
// member of extra, 2000.
func TestUsers(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "users")
	v := func(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }
	for _, c := range []struct {
		name   string
		change func(s *cri.LinuxContainerSecurityContext)
		want   string
	}{
		{"root", func(*cri.LinuxContainerSecurityContext) {}, "uid 0 gid 0 groups [0]"},
		{"name", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "web" }, "uid 1000 gid 1001 groups [1001 2000]"},
		{"number", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = v(1000) }, "uid 1000 gid 1001 groups [1001 2000]"},
		{"group", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = v(1000), v(5) }, "uid 1000 gid 5 groups [5 2000]"},
		{"merge", func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = v(1000), []int64{3000}
			s.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Merge
		}, "uid 1000 gid 1001 groups [1001 2000 3000]"},
		{"strict", func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = v(1000), v(1001), []int64{3000}
			s.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}, "uid 1000 gid 1001 groups [1001 3000]"},
		{"unknown number", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = v(4242) }, "uid 4242 gid 0 groups [0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, st := secured(t, d, pod, p, c.change)
			line, _, _ := strings.Cut(out, "\n")
			if sorted(line) != sorted(c.want) {
				t.Errorf("it is %q, want %q", line, c.want)
			}
			u := st.User.GetLinux()
			reported := fmt.Sprintf("uid %d gid %d groups %v", u.GetUid(), u.GetGid(), u.GetSupplementalGroups())
			if sorted(reported) != sorted(c.want) {
				t.Errorf("status says %q, want %q", reported, c.want)
			}
		})
	}
}

// sorted is an identity with its groups in order.
func sorted(identity string) string {
	head, groups, _ := strings.Cut(identity, "[")
	seen := map[string]bool{}
	for g := range strings.FieldsSeq(strings.Trim(groups, "]")) {
		seen[g] = true
	}
	return fmt.Sprint(head, seen)
}
