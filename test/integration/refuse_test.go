// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Requests for pods that cannot be: each is refused with its cause, at once,
// and leaves nothing.
func TestRefusedPods(t *testing.T) {
	d := node(t)
	for _, c := range []struct {
		name    string
		handler string
		change  func(c *cri.PodSandboxConfig)
		code    codes.Code
		mention []string
	}{
		{"no metadata", "", func(c *cri.PodSandboxConfig) { c.Metadata = nil }, codes.InvalidArgument, []string{"metadata"}},
		{"no name", "", func(c *cri.PodSandboxConfig) { c.Metadata.Name = "" }, codes.InvalidArgument, []string{"metadata.name"}},
		{"unknown handler", "nosuch", func(*cri.PodSandboxConfig) {}, codes.InvalidArgument, []string{"nosuch", "runc"}},
		{"sysctl of the node", "", sysctl("kernel.pid_max", "1000"), codes.InvalidArgument, []string{"kernel.pid_max"}},
		{"sysctl outside of proc", "", sysctl("net/../../kernel/pid_max", "1"), codes.InvalidArgument, []string{"pid_max"}},
		{"sysctl of the host's network", "", func(c *cri.PodSandboxConfig) {
			hostNet(c)
			sysctl("net.ipv4.ip_forward", "1")(c)
		}, codes.InvalidArgument, []string{"net.ipv4.ip_forward", "node's network"}},
		{"sysctl that is not there", "", sysctl("net.ipv4.no_such_thing", "1"), codes.FailedPrecondition, []string{"no_such_thing"}},
		{"sysctl value", "", sysctl("net.ipv4.ip_forward", "banana"), codes.FailedPrecondition, []string{"ip_forward"}},
		{"relative log directory", "", func(c *cri.PodSandboxConfig) { c.LogDirectory = "logs" }, codes.InvalidArgument, []string{`"logs"`}},
		{
			"port", "", func(c *cri.PodSandboxConfig) {
				c.PortMappings = []*cri.PortMapping{{HostPort: 70000, ContainerPort: 80}}
			},
			codes.InvalidArgument,
			[]string{"70000"},
		},
		{"cgroup parent", "", func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" }, codes.InvalidArgument, []string{"cgroup_parent"}},
		{"hostname", "", func(c *cri.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) }, codes.InvalidArgument, []string{"hostname"}},
		{"user namespace without maps", "", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD}
		}, codes.InvalidArgument, []string{"userns"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := d.PodConfig("refused")
			c.change(config)
			refusedPod(t, d, config, c.handler, c.code, c.mention...)
			d.NothingLeft(t)
		})
	}
	_, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{})
	code(t, err, codes.InvalidArgument, "config")
	l, err := d.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(l.Items) > 0 {
		t.Errorf("pods after all that: %v, %v", l, err)
	}
}

// A pod that cannot be is refused before anything is made for it: no record, no namespace, no address. What the machine
// itself has to be asked for is found before the network is.
func TestRefusedPodMakesNothing(t *testing.T) {
	d, plugins := cniNode(t, `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"cri-fake"}]}`)
	calls := filepath.Join(d.Dir, "calls")
	plugin(t, plugins, "cri-fake", `
[ $CNI_COMMAND != ADD ] || { echo ADD >> `+calls+`; echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}'; }`)
	records := func() time.Time {
		t.Helper()
		fi, err := os.Stat(d.Layout().Records())
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	before := records()
	for field, change := range map[string]func(sc *cri.LinuxSandboxSecurityContext, c *cri.PodSandboxConfig){
		"kernel.pid_max": func(_ *cri.LinuxSandboxSecurityContext, c *cri.PodSandboxConfig) { sysctl("kernel.pid_max", "1000")(c) },
		"hostname": func(_ *cri.LinuxSandboxSecurityContext, c *cri.PodSandboxConfig) {
			c.Hostname = strings.Repeat("h", 65)
		},
		"cpu_quota": func(_ *cri.LinuxSandboxSecurityContext, c *cri.PodSandboxConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: 1}
		},
		"seccomp": func(sc *cri.LinuxSandboxSecurityContext, _ *cri.PodSandboxConfig) {
			sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost}
		},
		"apparmor": func(sc *cri.LinuxSandboxSecurityContext, _ *cri.PodSandboxConfig) {
			sc.Apparmor = &cri.SecurityProfile{ProfileType: 9}
		},
		"selinux_options": func(sc *cri.LinuxSandboxSecurityContext, _ *cri.PodSandboxConfig) {
			sc.SelinuxOptions = &cri.SELinuxOption{Type: "a:b"}
		},
		"run_as_user": func(sc *cri.LinuxSandboxSecurityContext, _ *cri.PodSandboxConfig) {
			sc.RunAsUser = &cri.Int64Value{Value: 1 << 32}
		},
		"userns_options": func(sc *cri.LinuxSandboxSecurityContext, _ *cri.PodSandboxConfig) {
			sc.NamespaceOptions.UsernsOptions = &cri.UserNamespace{}
		},
	} {
		config := d.PodConfig("refused")
		change(config.Linux.SecurityContext, config)
		refusedPod(t, d, config, "", codes.InvalidArgument, field)
	}
	if !records().Equal(before) {
		t.Error("records were written for pods that cannot be")
	}
	missing := d.PodConfig("missing")
	missing.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such.json"}
	refusedPod(t, d, missing, "", codes.InvalidArgument, "/no/such.json")
	if done, err := os.ReadFile(calls); err == nil {
		t.Errorf("the network was asked: %s", done)
	}
	d.NothingLeft(t)
	removePod(t, d, d.Pod(t, d.PodConfig("good")))
	if _, err := os.ReadFile(calls); err != nil {
		t.Errorf("a pod that can be has not asked the network: %v", err)
	}
	barest := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "barest"}}
	removePod(t, d, d.Pod(t, barest))
	d.NothingLeft(t)
}

func sysctl(name, value string) func(*cri.PodSandboxConfig) {
	return func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{name: value} }
}

func mounts(m ...*cri.Mount) func(*cri.ContainerConfig) {
	return func(c *cri.ContainerConfig) { c.Mounts = m }
}

func imageMount(sub string) *cri.Mount {
	return &cri.Mount{ContainerPath: "/data", Image: &cri.ImageSpec{Image: nodetest.TestImage}, ImageSubPath: sub, Readonly: true}
}

type refused struct {
	name    string
	change  func(c *cri.ContainerConfig)
	code    codes.Code
	mention []string
}

func refusedContainers(private string) []refused {
	return []refused{
		{"no metadata", func(c *cri.ContainerConfig) { c.Metadata = nil }, codes.InvalidArgument, []string{"metadata.name"}},
		{"no image", func(c *cri.ContainerConfig) { c.Image = nil }, codes.InvalidArgument, []string{"image"}},
		{"unknown image", func(c *cri.ContainerConfig) { c.Image.Image = "cri-shim.test/none:1" }, codes.NotFound, []string{"cri-shim.test/none:1"}},
		{"relative source", mounts(&cri.Mount{HostPath: "etc", ContainerPath: "/data"}), codes.InvalidArgument, []string{"host_path", `"etc"`}},
		{"source below a file", mounts(&cri.Mount{HostPath: "/etc/passwd/dir", ContainerPath: "/data"}), codes.InvalidArgument, []string{"/data", "/etc/passwd/dir"}},
		{"source that cannot be made", mounts(&cri.Mount{HostPath: "/sys/no-such-dir", ContainerPath: "/data"}), codes.FailedPrecondition, []string{"/data", "/sys/no-such-dir"}},
		{"relative container path", mounts(&cri.Mount{HostPath: "/tmp", ContainerPath: "data"}), codes.InvalidArgument, []string{"container_path", `"data"`}},
		{"mount over the root", mounts(&cri.Mount{HostPath: "/tmp", ContainerPath: "/"}), codes.InvalidArgument, []string{"root"}},
		{
			"recursive read-only but writable", mounts(&cri.Mount{HostPath: "/tmp", ContainerPath: "/data", RecursiveReadOnly: true}),
			codes.InvalidArgument,
			[]string{"recursive_read_only"},
		},
		{
			"writable image volume", mounts(&cri.Mount{ContainerPath: "/data", Image: &cri.ImageSpec{Image: nodetest.TestImage}}),
			codes.InvalidArgument,
			[]string{"mounts[/data]", "readonly"},
		},
		{
			"image volume of an unknown image", mounts(&cri.Mount{ContainerPath: "/data", Image: &cri.ImageSpec{Image: "cri-shim.test/none:1"}, Readonly: true}),
			codes.NotFound,
			[]string{"/data", "cri-shim.test/none:1"},
		},
		{"image sub path missing", mounts(imageMount("no/such")), codes.InvalidArgument, []string{"/data", "no/such"}},
		{"image sub path escaping", mounts(imageMount("../../etc")), codes.InvalidArgument, []string{"../../etc"}},
		{"image sub path absolute", mounts(imageMount("/etc")), codes.InvalidArgument, []string{`"/etc"`}},
		{"propagation from a private mount", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: private, ContainerPath: "/data", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}, codes.FailedPrecondition, []string{private, "not shared"}},
		{"log path that leaves", func(c *cri.ContainerConfig) { c.LogPath = "../x.log" }, codes.InvalidArgument, []string{"../x.log"}},
		{"absolute log path", func(c *cri.ContainerConfig) { c.LogPath = "/tmp/x.log" }, codes.InvalidArgument, []string{"/tmp/x.log"}},
		{"relative working directory", func(c *cri.ContainerConfig) { c.WorkingDir = "w" }, codes.InvalidArgument, []string{"working_dir"}},
		{
			"missing device", func(c *cri.ContainerConfig) {
				c.Devices = []*cri.Device{{HostPath: "/dev/nosuch", ContainerPath: "/dev/x"}}
			},
			codes.InvalidArgument,
			[]string{"/dev/nosuch"},
		},
		{
			"unknown CDI device", func(c *cri.ContainerConfig) { c.CDIDevices = []*cri.CDIDevice{{Name: "vendor.test/none=all"}} },
			codes.InvalidArgument,
			[]string{"vendor.test/none=all"},
		},
		{"unknown capability", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}}
		}, codes.InvalidArgument, []string{"FLY"}},
		{"unknown user", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nobody-here" }, codes.InvalidArgument, []string{"nobody-here"}},
		{
			"group without user", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1} },
			codes.InvalidArgument,
			[]string{"run_as_group"},
		},
		{"missing seccomp profile", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such.json"}
		}, codes.InvalidArgument, []string{"/no/such.json"}},
		{"unknown target", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_TARGET, TargetId: "feed"}
		}, codes.NotFound, []string{"feed"}},
		{"negative limit", func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: -2} }, codes.InvalidArgument, []string{"cpu_quota"}},
		{
			"oom score", func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 1001} },
			codes.InvalidArgument,
			[]string{"oom_score_adj"},
		},
		{"no command", func(c *cri.ContainerConfig) { c.Image.Image = emptyImage; c.Args = nil }, codes.InvalidArgument, []string{"command"}},
	}
}

// privateMount is a folder whose mounts nobody else gets to see, also where those of the machine are shared.
func privateMount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRefusedContainers(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	writeLayout(t, preload, nodetest.TestImage, nodetest.TestboxImage(t))
	writeLayout(t, preload, emptyImage, fileImage("only/a/file", "x"))
	extra := "[image]\npreload_dir = \"" + preload + "\"\n"
	d := nodetest.Start(t, extra)
	d.AwaitImage(t, emptyImage)
	pod, config := quickPod(t, d, "refusing")
	for _, c := range refusedContainers(privateMount(t)) {
		t.Run(c.name, func(t *testing.T) {
			cc := inHostNet("refused", "sleep")
			c.change(cc)
			refusedContainer(t, d, pod, cc, c.code, c.mention...)
		})
	}
	l, err := d.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil || len(l.Containers) > 0 {
		t.Errorf("containers after all that: %v, %v", l, err)
	}
	t.Run("log directory is a file", func(t *testing.T) {
		c := clone(config)
		c.Metadata.Name, c.LogDirectory = "file", filepath.Join(d.Dir, "file")
		mustWrite(t, c.LogDirectory, "")
		refusedPod(t, d, c, "", codes.InvalidArgument, c.LogDirectory)
		c.LogDirectory = filepath.Join(d.Dir, "log")
		p := d.Pod(t, c)
		mustWrite(t, filepath.Join(c.LogDirectory, "sub"), "")
		cc := inHostNet("refused", "sleep")
		cc.LogPath = "sub/x.log"
		refusedContainer(t, d, p, cc, codes.InvalidArgument, filepath.Join(c.LogDirectory, "sub"))
	})
	t.Run("container in a stopped pod", func(t *testing.T) {
		p, _ := quickPod(t, d, "stopped")
		if _, err := d.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p}); err != nil {
			t.Fatal(err)
		}
		refusedContainer(t, d, p, inHostNet("refused", "sleep"), codes.FailedPrecondition, p)
	})
	t.Run("start twice", func(t *testing.T) {
		id := d.Run(t, pod, inHostNet("once", "sleep"), config)
		_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
		code(t, err, codes.FailedPrecondition, id)
	})
}
