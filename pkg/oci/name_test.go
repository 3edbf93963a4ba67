// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"slices"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

func TestCgroupsPath(t *testing.T) {
	for _, c := range []struct{ parent, fs, systemd string }{
		{"", "/id", "system.slice:cri:id"},
		{"/", "/id", "system.slice:cri:id"},
		{"/kubepods/burstable/pod1-2", "/kubepods/burstable/pod1-2/id", "kubepods-burstable-pod1_2.slice:cri:id"},
		{"kubepods", "/kubepods/id", "kubepods.slice:cri:id"},
		{"/kubepods.slice/kubepods-pod1_2.slice", "/kubepods.slice/kubepods-pod1_2.slice/id", "kubepods-pod1_2.slice:cri:id"},
		{"kubepods-pod1.slice", "/kubepods-pod1.slice/id", "kubepods-pod1.slice:cri:id"},
		{"/a/../../b", "/b/id", "b.slice:cri:id"},
	} {
		if got := oci.CgroupsPath(c.parent, "id", false); got != c.fs {
			t.Errorf("cgroupfs %q: %s, want %s", c.parent, got, c.fs)
		}
		if got := oci.CgroupsPath(c.parent, "id", true); got != c.systemd {
			t.Errorf("systemd %q: %s, want %s", c.parent, got, c.systemd)
		}
	}
}

func TestStopSignal(t *testing.T) {
	for _, c := range []struct {
		config cri.Signal
		image  string
		number int
		signal cri.Signal
	}{
		{0, "", 15, cri.Signal_SIGNAL_SIGTERM},
		{0, "nonsense", 15, cri.Signal_SIGNAL_SIGTERM},
		{0, "0", 15, cri.Signal_SIGNAL_SIGTERM},
		{0, "SIGQUIT", 3, cri.Signal_SIGNAL_SIGQUIT},
		{0, "quit", 3, cri.Signal_SIGNAL_SIGQUIT},
		{0, "37", 37, cri.Signal_SIGNAL_SIGRTMINPLUS3},
		{0, "SIGRTMIN+3", 37, cri.Signal_SIGNAL_SIGRTMINPLUS3},
		{0, "RTMAX-1", 63, cri.Signal_SIGNAL_SIGRTMAXMINUS1},
		{0, "IOT", 6, cri.Signal_SIGNAL_SIGABRT},
		{0, "32", 15, cri.Signal_SIGNAL_SIGTERM}, // the C library's own
		{cri.Signal_SIGNAL_SIGUSR1, "SIGQUIT", 10, cri.Signal_SIGNAL_SIGUSR1},
		{cri.Signal_SIGNAL_SIGRTMIN, "", 34, cri.Signal_SIGNAL_SIGRTMIN},
		{cri.Signal_SIGNAL_SIGRTMAXMINUS14, "", 50, cri.Signal_SIGNAL_SIGRTMAXMINUS14},
		{cri.Signal_SIGNAL_SIGCLD, "", 17, cri.Signal_SIGNAL_SIGCLD},
	} {
		number, signal, err := oci.StopSignal(&cri.ContainerConfig{StopSignal: c.config}, c.image)
		if err != nil || number != c.number || signal != c.signal {
			t.Errorf("%v, %q: %d %v %v, want %d %v", c.config, c.image, number, signal, err, c.number, c.signal)
		}
	}
	for value, name := range cri.Signal_name {
		if _, _, err := oci.StopSignal(&cri.ContainerConfig{StopSignal: cri.Signal(value)}, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExec(t *testing.T) {
	spec, err := oci.Container(testInput())
	if err != nil {
		t.Fatal(err)
	}
	p, err := oci.Exec(spec, []string{"ls", "-l"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Args, []string{"ls", "-l"}) || !p.Terminal || p.User.UID != 1000 || !slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("process %+v", p)
	}
	if spec.Process.Terminal || slices.Contains(spec.Process.Env, "TERM=xterm") || spec.Process.Args[0] != "/bin/web" {
		t.Errorf("the container's own process changed: %+v", spec.Process)
	}
	for _, argv := range [][]string{nil, {""}, {"a\x00"}} {
		_, err := oci.Exec(spec, argv, false)
		refused(t, err)
	}
}

func TestDeclaredVolumes(t *testing.T) {
	config := &cri.ContainerConfig{Mounts: []*cri.Mount{{ContainerPath: "/data/"}}}
	got := oci.DeclaredVolumes(config, map[string]struct{}{
		"/data": {}, "/data/below": {}, "/database": {}, "b": {}, "/a/": {}, "/": {}, "/a": {}, "/../c": {}, "/nul\x00": {},
		"/proc": {}, "/sys/fs/cgroup": {}, "/dev": {}, "/etc/hosts": {}, "/etc": {},
	})
	if want := []string{"/a", "/b", "/c", "/database", "/etc"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		want    *cri.Capability
		host    []string
		bounded []string
	}{
		"all of what there is":    {&cri.Capability{AddCapabilities: []string{"all"}}, []string{"CAP_CHOWN", "CAP_BPF"}, []string{"CAP_CHOWN", "CAP_BPF"}},
		"all but":                 {&cri.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"bpf"}}, []string{"CAP_CHOWN", "CAP_BPF"}, []string{"CAP_CHOWN"}},
		"none but":                {&cri.Capability{AddCapabilities: []string{"CAP_BPF"}, DropCapabilities: []string{"ALL"}}, []string{"CAP_CHOWN", "CAP_BPF"}, []string{"CAP_BPF"}},
		"drop beats add":          {&cri.Capability{AddCapabilities: []string{"BPF"}, DropCapabilities: []string{"BPF"}}, []string{"CAP_CHOWN", "CAP_BPF"}, []string{"CAP_CHOWN"}},
		"default where there are": {nil, []string{"CAP_BPF", "CAP_KILL"}, []string{"CAP_KILL"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			in.Host.Capabilities = c.host
			security(&in).Capabilities = c.want
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			got := spec.Process.Capabilities
			if !slices.Equal(got.Bounding, c.bounded) || !slices.Equal(got.Effective, c.bounded) || len(got.Inheritable)+len(got.Ambient) > 0 {
				t.Errorf("got %+v, want %v", got, c.bounded)
			}
		})
	}
}
