// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod's cgroup parent is where its containers are, a path whatever the driver;
// it is the kubelet's and stays.
func TestCgroupParent(t *testing.T) {
	d := node(t)
	r, err := d.Runtime.RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	top := fmt.Sprintf("criparent%d", os.Getpid())
	parent, format := "/"+top+"/burstable/pod1", "%s"
	if r.Linux.CgroupDriver == cri.CgroupDriver_SYSTEMD {
		parent, format = fmt.Sprintf("/%[1]s.slice/%[1]s-burstable.slice/%[1]s-burstable-pod1.slice", top), "cri-%s.scope"
		t.Cleanup(func() {
			if err := runHost("systemctl", "stop", top+".slice"); err != nil {
				t.Error(err)
			}
		})
	} else {
		t.Cleanup(func() { removeParents(t, top) })
	}
	config := hostNet(d.PodConfig("parent"))
	config.Linux.CgroupParent = parent
	pod := d.Pod(t, config)
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", info(t, d, id).PID))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "cgroup of the container", string(own), parent+"/"+fmt.Sprintf(format, id))
	removePod(t, d, pod)
	for _, root := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		if left, _ := filepath.Glob(root + parent + "/*/cgroup.procs"); len(left) > 0 {
			t.Errorf("cgroups left in the parent: %v", left)
		}
	}
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if exists(root+"/cgroup.procs") && !exists(root+parent) {
			t.Errorf("the kubelet's cgroup was removed: %s", root+parent)
		}
	}
}

// removeParents removes the cgroups that a cgroup parent named.
func removeParents(t *testing.T, top string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		for _, below := range []string{"/burstable/pod1", "/burstable", ""} {
			dirs, _ := filepath.Glob(pattern + top + below)
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			}
		}
	}
}

// The fields that came before SecurityProfile still count.
func TestDeprecatedProfiles(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "deprecated")
	profile := filepath.Join(d.Dir, "profile.json")
	mustWrite(t, profile, `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	for name, c := range map[string]struct {
		change func(s *cri.LinuxContainerSecurityContext)
		mode   string
	}{
		"runtime default": {func(s *cri.LinuxContainerSecurityContext) { s.SeccompProfilePath = "runtime/default" }, "Seccomp:\t2"},
		"docker default":  {func(s *cri.LinuxContainerSecurityContext) { s.SeccompProfilePath = "docker/default" }, "Seccomp:\t2"},
		"localhost":       {func(s *cri.LinuxContainerSecurityContext) { s.SeccompProfilePath = "localhost/" + profile }, "Seccomp:\t2"},
		"unconfined":      {func(s *cri.LinuxContainerSecurityContext) { s.SeccompProfilePath = "unconfined" }, "Seccomp:\t0"},
		"none":            {func(*cri.LinuxContainerSecurityContext) {}, "Seccomp:\t0"},
		"zero value":      {func(s *cri.LinuxContainerSecurityContext) { s.Seccomp = &cri.SecurityProfile{} }, "Seccomp:\t2"},
		"apparmor":        {func(s *cri.LinuxContainerSecurityContext) { s.ApparmorProfile = "unconfined" }, "Seccomp:\t0"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := secured(t, d, pod, p, c.change)
			contains(t, "status", out, c.mode)
		})
	}
}

// A pod with user and host network namespaces, with a volume whose owners are
// mapped back: features.user_namespaces_host_network says that this works.
func TestUserNamespaceOnHostNetwork(t *testing.T) {
	d := node(t)
	config := d.PodConfig("hostusers")
	ids := []*cri.IDMapping{{HostId: 300000, ContainerId: 0, Length: 65536}}
	o := &cri.NamespaceOption{
		Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER,
		UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids},
	}
	config.Linux.SecurityContext.NamespaceOptions = o
	pod := d.Pod(t, config)
	volume := filepath.Join(d.Dir, "volume")
	mustMkdir(t, volume)
	mustWrite(t, filepath.Join(volume, "roots"), "mine")
	c := options(nodetest.ContainerConfig("app", "sleep"), o)
	c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/volume", UidMappings: ids, GidMappings: ids}}
	id := d.Run(t, pod, c, config)
	got := spaces(t, d, id)
	if got["net"] != hostSpace(t, "net") || got["user"] == hostSpace(t, "user") {
		t.Errorf("namespaces %v", got)
	}
	contains(t, "/sys/class/net", exec(t, d, id, "ls", "/sys/class/net"), "lo\n") // sysfs cannot be mounted anew here
	contains(t, "owner in the container", exec(t, d, id, "stat", "/volume/roots"), "uid=0 gid=0")
	exec(t, d, id, "write", "/volume/back", "x")
	st, err := os.Stat(filepath.Join(volume, "back"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := ownerOf(st); uid != 0 {
		t.Errorf("on the host the file of the mapped volume belongs to %d, want 0", uid)
	}
	ps, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || ps.Status.Linux.Namespaces.Options.UsernsOptions.GetUids()[0].HostId != 300000 {
		t.Errorf("status %v, %v", ps, err)
	}
	t.Run("a filesystem without mapped mounts", func(t *testing.T) {
		c := clone(c)
		c.Metadata.Name, c.LogPath, c.Mounts[0].HostPath = "unmapped", "unmapped.log", "/proc/sys"
		r, err := d.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
		if err == nil {
			_, err = d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId})
		}
		if err == nil {
			t.Fatal("it started, with a mount whose owners nobody mapped")
		}
		contains(t, "error", err.Error(), "idmap") // runc names the source, crun the destination
	})
}

// Options of a bind mount are on the mount, the later of two that contradict
// each other; the status has them as they were given, and the image of a volume
// with its id.
func TestMountFields(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "options")
	img, err := d.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: nodetest.TestImage}})
	if err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(d.Dir, "host")
	mustMkdir(t, host)
	c := inHostNet("app", "sleep")
	c.Mounts = []*cri.Mount{
		{HostPath: host, ContainerPath: "/plain"},
		{HostPath: host, ContainerPath: "/options", MountOptions: []string{"exec", "noexec", "nosuid", "nosuid", "nodev"}},
		{ContainerPath: "/image", Image: &cri.ImageSpec{Image: nodetest.TestImage}, ImageSubPath: "etc", Readonly: true},
	}
	id := d.Run(t, pod, c, p)
	var options string
	for line := range strings.Lines(exec(t, d, id, "read", "/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == "/options" {
			options = "," + f[5] + ","
		}
	}
	contains(t, "mount", options, ",noexec,", ",nosuid,", ",nodev,")
	m := d.Status(t, id).Mounts
	if len(m) != 3 || !reflect.DeepEqual(m[1].MountOptions, c.Mounts[1].MountOptions) {
		t.Fatalf("mounts in the status: %v", m)
	}
	if m[2].Image.ImageRef != img.Image.Id || m[2].Image.Image != nodetest.TestImage || m[2].ImageSubPath != "etc" {
		t.Errorf("image volume in the status: %v, the image is %s", m[2], img.Image.Id)
	}
	s, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil || !s.Features.MountOptions {
		t.Errorf("features %v, %v", s.GetFeatures(), err)
	}
	kata := inHostNet("kata")
	kata.Image.RuntimeHandler = "kata"
	refusedContainer(t, d, pod, kata, codes.InvalidArgument, "kata")
	_, err = d.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: kata.Image})
	code(t, err, codes.InvalidArgument, "kata")
}

// Labels and annotations come back as they came, also after a restart.
func TestAnnotationsAreUnaltered(t *testing.T) {
	d := node(t)
	odd := map[string]string{
		"empty": "", "umlaut": "größer", "lines": "a\nb\x00c", "json": `{"a":["<&>"]}`, "io.kubernetes.cri.sandbox-id": "forged",
		"cdi.k8s.io/none": "", "a/b": strings.Repeat("x", 10000),
	}
	config := hostNet(d.PodConfig("odd"))
	config.Annotations, config.Labels = maps.Clone(odd), maps.Clone(odd)
	delete(config.Annotations, "cdi.k8s.io/none") // names devices
	pod := d.Pod(t, config)
	c := inHostNet("app", "sleep")
	c.Annotations, c.Labels = config.Annotations, config.Labels
	id := d.Run(t, pod, c, config)
	check := func() {
		t.Helper()
		s := d.Status(t, id)
		ps, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string][2]map[string]string{"container": {s.Annotations, s.Labels}, "pod": {ps.Status.Annotations, ps.Status.Labels}} {
			if !maps.Equal(got[0], config.Annotations) || !maps.Equal(got[1], config.Labels) {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	check()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}

// What of resources only this machine's kernel can show: swap counts from zero
// in the API and from memory's end in cgroup v2; huge pages of a size that the
// kernel has not are no reason to refuse.
func TestSwapAndHugepages(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "swap")
	c := inHostNet("app", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{
		MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20,
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "16GB", Limit: 0}},
	}
	id := d.Run(t, pod, c, p)
	path := info(t, d, id).CgroupsPath
	v2 := exists("/sys/fs/cgroup/cgroup.controllers")
	swap := func(v1, v2want string) {
		t.Helper()
		if !v2 && !exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") {
			t.Log("not looked at: this kernel accounts no swap")
			return
		}
		if got := cgroupFile(t, path, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"); got != v1 && got != v2want {
			t.Errorf("swap limit is %s, want %s or %s in v2", got, v1, v2want)
		}
	}
	swap("100663296", "33554432")
	if exists("/sys/kernel/mm/hugepages/hugepages-2048kB") && (v2 || exists("/sys/fs/cgroup/hugetlb")) {
		if got := cgroupFile(t, path, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"); got != "4194304" {
			t.Errorf("limit of huge pages is %s", got)
		}
	}
	if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, MemorySwapLimitInBytes: 192 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	swap("201326592", "67108864")
	if r := d.Status(t, id).Resources.GetLinux(); r.GetMemorySwapLimitInBytes() != 192<<20 {
		t.Errorf("status has %v", r)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Signals have names in the API, and numbers of their own there: real-time ones
// too are what the container gets.
func TestRealTimeStopSignal(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "realtime")
	c := inHostNet("app", "trap")
	c.StopSignal = cri.Signal_SIGNAL_SIGRTMINPLUS3
	id := d.Run(t, pod, c, p)
	d.AwaitLog(t, "app", "trapping")
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if st := d.Status(t, id); st.ExitCode != 40 || st.StopSignal != cri.Signal_SIGNAL_SIGRTMINPLUS3 {
		t.Errorf("status %v, want code 40", st)
	}
	contains(t, "log", d.LogOf(t, "app"), "got 37")
}

// An empty list of masked paths masks nothing: procMount Unmasked.
func TestUnmasked(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "unmasked")
	for name, c := range map[string]struct {
		masked, readonly []string
		mounts           bool
	}{"unmasked": {nil, nil, false}, "masked": {[]string{"/proc/kcore", "/proc/keys"}, []string{"/proc/sys"}, true}} {
		cc := inHostNet(name, "sleep")
		cc.Linux.SecurityContext.MaskedPaths, cc.Linux.SecurityContext.ReadonlyPaths = c.masked, c.readonly
		out := exec(t, d, d.Run(t, pod, cc, p), "read", "/proc/self/mountinfo")
		if got := strings.Contains(out, " /proc/"); got != c.mounts {
			t.Errorf("%s: mounts over /proc are there: %t\n%s", name, got, out)
		}
	}
}

// What network plugins are told of ports: all protocols and both families of
// addresses; host port 0 is none.
func TestPortMappingFields(t *testing.T) {
	d, plugins := cniNode(t, `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"cri-fake","capabilities":{"portMappings":true}}]}`)
	told := filepath.Join(d.Dir, "told")
	plugin(t, plugins, "cri-fake", fmt.Sprintf(`
[ $CNI_COMMAND = ADD ] || exit 0
cat > %s
echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}'`, told))
	config := d.PodConfig("ports")
	config.PortMappings = []*cri.PortMapping{
		{Protocol: cri.Protocol_SCTP, ContainerPort: 3868, HostPort: 3868},
		{Protocol: cri.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "fd00::1"},
		{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.2"},
		{Protocol: cri.Protocol_TCP, ContainerPort: 81, HostPort: 0},
	}
	d.Pod(t, config)
	data, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		RuntimeConfig struct {
			PortMappings []map[string]any `json:"portMappings"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"protocol": "sctp", "containerPort": 3868.0, "hostPort": 3868.0},
		{"protocol": "udp", "containerPort": 53.0, "hostPort": 5353.0, "hostIP": "fd00::1"},
		{"protocol": "tcp", "containerPort": 80.0, "hostPort": 8080.0, "hostIP": "127.0.0.2"},
	}
	if !reflect.DeepEqual(conf.RuntimeConfig.PortMappings, want) {
		t.Errorf("the plugin was told %v", conf.RuntimeConfig.PortMappings)
	}
	bad := d.PodConfig("bad")
	bad.PortMappings = []*cri.PortMapping{{ContainerPort: 1, HostPort: 1, HostIp: "localhost"}, {ContainerPort: 1, HostPort: 1, Protocol: 9}}
	refusedPod(t, d, bad, "", codes.InvalidArgument, "host_ip", "protocol 9")
}
