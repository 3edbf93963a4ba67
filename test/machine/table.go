// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// machine is one row of the table.
type machine struct {
	name    string
	what    string
	disk    disk
	kernel  kernel
	systemd bool
	options []string // of the kernel: which security module it uses, for one
	limit   time.Duration
	steps   []step
	short   []step // what is enough for every change; all the steps if there are none
}

// step is one thing that a machine does.
type step struct {
	name    string
	folder  string // below the tree
	argv    []string
	restart bool   // restart the machine and do nothing
	needs   string // a file, in the tree or absolute, without which the step is left out
	without string // says so
}

// disk is a root file system, made of a release of Debian; arch is whose programs are on it, if not those of this machine.
type disk struct {
	release  string
	arch     string
	packages []string
}

const packages = "systemd systemd-sysv libpam-systemd dbus udev iproute2 iptables nftables sudo procps e2fsprogs curl "

var (
	sid      = disk{"sid", "", strings.Fields(packages + "apparmor crun")}
	bookworm = disk{"bookworm", "", strings.Fields(packages + "apparmor crun kmod")}
	// sid's policy cannot be installed: it wants a module disabled that it does not have.
	trixie  = disk{"trixie", "", strings.Fields(packages + "selinux-policy-default policycoreutils")}
	foreign = disk{"bookworm", "arm64", strings.Fields("systemd-sysv kmod iproute2 iptables nftables procps e2fsprogs curl apparmor")}

	appArmor = []string{"lsm=apparmor", "apparmor=1"}
	seLinux  = []string{"lsm=selinux", "selinux=1", "enforcing=1"}
)

// ofCgroups are the tests that show most of cgroups, and of what security modules and OCI runtimes make of them; ofUsers
// those of user namespaces, which crun 1.8 does not promise to have; ofExits those that kill the monitor, of whose
// containers a kernel before Linux 6.15 does not tell the exits.
const (
	ofRoots   = "^Test(LayerCounts|IsIdempotent|AfterCrash|Busy|Labels|Owners)" // without the walks of deep trees
	ofExits   = "^Test(MonitorLosesContainers|DaemonRestart|MonitorKilled|DaemonAndMonitorKilled)$"
	ofUsers   = "|^TestUserNamespaces"
	ofCgroups = "^Test(CgroupParent|PodStats|ContainerStats|Resources|PodResources|SwapAndHugepages|AppArmor|UpdateOOMScore|ExecIsLikeTheContainer|Crun)$"
)

func table() []machine {
	newest := userMode{"sid"}
	return []machine{
		{
			name: "v2", what: "cgroup v2 by cgroupfs, AppArmor, runc, no service manager", disk: sid, kernel: newest, options: appArmor,
			limit: time.Hour, steps: []step{suite("integration"), critest(), critest().again(2), critest().again(3), crash()},
			short: []step{suite("integration").named("cgroups", ofCgroups+ofUsers)},
		},
		{
			name: "systemd", what: "cgroup v2 by systemd, both units as make install installs them, AppArmor, runc", disk: sid, kernel: newest,
			systemd: true, options: appArmor, limit: 45 * time.Minute, steps: append(units(), suite("integration"), critest()), short: units(),
		},
		{
			name: "crun", what: "cgroup v2 by systemd, AppArmor, crun as the default handler", disk: sid, kernel: newest, systemd: true, options: appArmor,
			limit: 45 * time.Minute, steps: []step{suite("integration").with("CRI_TEST_HANDLER=crun"), critest().with("CRI_TEST_HANDLER=crun")},
		},
		{
			name: "selinux", what: "cgroup v2 by systemd, SELinux enforcing Debian's policy, runc", disk: trixie, kernel: newest, systemd: true, options: seLinux,
			limit: 45 * time.Minute, steps: []step{suite("integration").named("labels", "^Test(SELinux|UserNamespaces)").inDomain(), critest().inDomain()},
		},
		{
			name: "debian12", what: "Debian 12 but for its kernel: cgroup v2 by systemd 252, AppArmor, runc, and crun 1.8", disk: bookworm, kernel: newest,
			systemd: true, options: appArmor, limit: 45 * time.Minute,
			steps: append(units(), suite("integration").named("cgroups", ofCgroups+ofUsers), suite("integration").with("CRI_TEST_HANDLER=crun").named("crun", ofCgroups)),
		},
		{
			// In user mode Linux 6.1 loses its first process on Linux 6.18.
			name: "old", what: "Debian 12 with its own kernel, emulated: cgroup v2 by systemd 252, AppArmor, runc", disk: bookworm,
			kernel: emulated{"bookworm", amd64}, systemd: true, limit: 45 * time.Minute,
			steps: slower(append(units(), suite("integration").named("cgroups", ofCgroups+ofUsers), suite("integration").named("exits", ofExits),
				unit("pkg/sys"), unit("pkg/sys/cgroup"), unit("pkg/mount"), unit("pkg/rootfs").named("rootfs", ofRoots), unit("pkg/monitor/container"))),
		},
		{
			name: "arm64", what: "64-bit ARM, Debian 12 with its own kernel, emulated: cgroup v2 by cgroupfs, runc, no service manager", disk: foreign,
			kernel: emulated{"bookworm", arm64}, limit: 45 * time.Minute,
			steps: slower([]step{
				suite("integration").named("pods", "^Test(PodLife|ExecSync|Logs|Stop|Seccomp|Capabilities|Resources|DaemonRestart|PortMappingsAndDualStack)$"+ofUsers),
				unit("cmd/pause"), unit("pkg/oci"), unit("pkg/oci/confine"), unit("pkg/runc"), unit("pkg/sys"), unit("pkg/sys/cgroup"),
				unit("pkg/mount"), unit("pkg/rootfs").named("rootfs", ofRoots), unit("pkg/monitor/container"), unit("pkg/stats"),
			}),
		},
		{
			name: "no-memory", what: "a kernel without the memory controller", disk: sid, kernel: newest, options: []string{"cgroup_disable=memory"},
			limit: 10 * time.Minute, steps: []step{suite("integration").named("ready", "TestNotReadyOnBareKernel")},
		},
		{
			name: "no-overlay", what: "a kernel without the memory controller and overlayfs", disk: sid, kernel: newest,
			options: []string{"cgroup_disable=memory", "initcall_blacklist=ovl_init"},
			limit:   10 * time.Minute, steps: []step{suite("integration").named("ready", "TestNotReadyOnBareKernel")},
		},
	}
}

func indexOf(machines []machine, name string) int {
	return slices.IndexFunc(machines, func(m machine) bool { return m.name == name })
}

// suite is a package of tests below test/. A machine has one processor, most tests wait for something else than that, and
// all is slower than outside.
func suite(name string) step {
	return testsOf(name, "test/"+name).with("CRI_TEST_PATIENCE=3", "MODEL_RUNS=10")
}

// unit are the tests beside the code of a package.
func unit(folder string) step {
	return testsOf(strings.TrimPrefix(strings.ReplaceAll(folder, "/", "-"), "pkg-"), folder)
}

// testsOf are the tests of a folder, built before the machine boots.
func testsOf(name, folder string) step {
	s := step{name: name, folder: folder}
	s.argv = []string{"/machine/built/" + s.program(), "-test.v", "-test.timeout", "30m", "-test.parallel", "4"}
	return s
}

// program is the name of the program with the tests of the step's folder.
func (s step) program() string { return strings.ReplaceAll(s.folder, "/", "-") + ".test" }

// units installs what make install installs, drives both units, and once more after the machine was restarted.
func units() []step {
	of := func(name, tests string) step { return suite("units").with("CRI_TEST_UNITS=1").named(name, tests) }
	return []step{
		{name: "install", argv: []string{"sh", "-c", "cp -a /machine/installed/. / && systemctl daemon-reload"}},
		of("units", "^Test(Scopes|Units|Starts)"), of("units-before", "^TestBeforeReboot$"),
		{name: "reboot", restart: true},
		of("units-after", "^TestAfterReboot$"),
		{name: "stop", argv: []string{"sh", "-c", "systemctl disable --now cri-shim.service cri-monitor.service && cri-shim wipe && rm -r /var/lib/cri-shim /etc/cri-shim"}},
	}
}

// inDomain is the step in SELinux's domain of container engines.
func (s step) inDomain() step {
	s.argv = append([]string{"runcon", "-r", "system_r", "-t", "container_engine_t", "--"}, s.argv...)
	return s
}

// named is the step under another name, with a part of its tests.
func (s step) named(name, tests string) step {
	s.name, s.argv = name, append(slices.Clone(s.argv), "-test.run", tests)
	return s
}

// crash is the package that kills daemons, without what takes long and meets no cgroup: each step of the tables, each
// damage to a record.
func crash() step {
	return suite("crash").named("crash", "^Test(ClockJumps|FullAndReadOnlyDisk|Hung|Kills|NetworkPluginHangs|Pause|Reboot|RoundsOfPods|RuntimeHangs|Unkillable)").
		with("CRASH_KILLS=20")
}

// critest is upstream's suite, its specs in an order of their own each time.
func critest() step {
	return step{
		name: "critest", argv: []string{"/machine/built/critest-run", "-randomize", "-logs", "/machine/out/critest"},
		needs: "/machine/critest", without: "no critest binary: set CRITEST or put it on PATH",
	}.with("CRITEST=/machine/critest")
}

// again is critest for the nth time, with logs of its own.
func (s step) again(n int) step {
	s.name = fmt.Sprintf("%s-%d", s.name, n)
	s.argv = append(slices.Clone(s.argv), "-logs", "/machine/out/"+s.name)
	return s
}

// slower are the steps on an emulated processor.
func slower(steps []step) []step {
	for i, s := range steps {
		if s.folder != "" {
			steps[i] = s.with("CRI_TEST_PATIENCE=10")
			steps[i].argv = append(steps[i].argv, "-test.parallel", "2")
		}
	}
	return steps
}

// with is the step with variables in its environment, the last of each name counts.
func (s step) with(variables ...string) step {
	if len(s.argv) == 0 || s.argv[0] != "env" {
		s.argv = append([]string{"env"}, s.argv...)
	}
	end := 1
	for strings.Contains(s.argv[end], "=") {
		end++
	}
	s.argv = slices.Insert(slices.Clone(s.argv), end, variables...)
	return s
}
