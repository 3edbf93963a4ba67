// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/cmd/pause"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// runtimeNode is a node with the real runtime.
type runtimeNode struct {
	*monitornode.Node
	runc string
	uid  string
}

func startRuntimeNode(t *testing.T, binary ...string) *runtimeNode {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for containers")
	}
	runc, err := filepath.Abs("../../../bin/runc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runc); err != nil {
		t.Skip("needs bin/runc (make runc)")
	}
	return &runtimeNode{Node: monitornode.StartWith(t, strings.Join(binary, "")), runc: runc, uid: strconv.Itoa(os.Getpid())}
}

// bundle writes a bundle whose root is made of the host's programs, and returns
// the launch of its container.
func (n *runtimeNode) bundle(id string, change func(*specs.Spec), command ...string) monitor.Launch {
	n.T.Helper()
	dir := filepath.Join(n.Dir, "bundle-"+id)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		n.T.Fatal(err)
	}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: command, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.cgroup(id),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
	for _, host := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(host); err == nil {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: host, Type: "bind", Source: host, Options: []string{"rbind", "ro"}})
		}
	}
	if change != nil {
		change(spec)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		n.T.Fatal(err)
	}
	pidFile := filepath.Join(dir, "pid")
	argv := append(n.argv(), "run", "--detach", "--bundle", dir, "--pid-file", pidFile)
	if spec.Process.Terminal {
		argv = append(argv, "--console-socket", "{console}")
	}
	n.T.Cleanup(func() {
		_ = exec.Command(n.runc, append(n.argv()[1:], "delete", "--force", id)...).Run()
		_ = cgroup.Remove(n.Ctx(), n.cgroup(id))
	})
	return monitor.Launch{
		ID: id, Argv: append(argv, id), Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, PidFile: pidFile, LogPath: n.LogPath(id), Stdio: true,
		Terminal: spec.Process.Terminal, Cgroups: cgroup.Dirs(n.cgroup(id)),
	}
}

func (n *runtimeNode) argv() []string {
	return []string{n.runc, "--root", filepath.Join(n.Dir, "runc"), "--log", filepath.Join(n.Dir, "runc.log")}
}

func (n *runtimeNode) cgroup(id string) string { return "/cri-test-" + n.uid + "-" + id }

func TestRuntimeContainer(t *testing.T) {
	n := startRuntimeNode(t)
	l := n.Launch(n.bundle("c", nil, "sh", "-c", "echo pid $$; cat /dev/stdin; echo again >/proc/self/fd/1; exit 11"))
	if e := n.Exit(); e.Code != 11 || e.Pid != l.Pid {
		t.Errorf("exit %+v", e)
	}
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != "pid 1\nagain\n" {
		t.Errorf("log %q", got)
	}
	_, err := n.Client.Launch(n.Ctx(), n.bundle("bad", nil, "/no/such/program"))
	log, _ := os.ReadFile(filepath.Join(n.Dir, "runc.log"))
	if err == nil || !strings.Contains(string(log), "/no/such/program") {
		t.Errorf("error %v; runtime's log: %s", err, log)
	}
}

func TestRuntimePause(t *testing.T) {
	n := startRuntimeNode(t)
	l := n.bundle("pause", nil, "/pause")
	l.Stdio, l.LogPath = false, ""
	if err := os.WriteFile(filepath.Join(l.Dir, "rootfs/pause"), pause.Binary(), 0o755); err != nil {
		t.Fatal(err)
	}
	started := n.Launch(l)
	monitornode.Eventually(t, "runc's init to become pause and that to wait", func() bool { // runc returns a moment before that
		call, _ := os.ReadFile("/proc/" + strconv.Itoa(started.Pid) + "/syscall")
		return strings.HasPrefix(string(call), strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)+" ")
	})
	if err := n.Client.Signal(n.Ctx(), "pause", 15); err != nil {
		t.Error(err)
	}
	if e := n.Exit(); e.Code != 0 || e.Signal != 0 {
		t.Errorf("exit %+v", e)
	}
}

func TestRuntimeOOM(t *testing.T) {
	n := startRuntimeNode(t)
	limit := int64(16 << 20)
	memory := func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	n.Launch(n.bundle("oom", memory, "sh", "-c",
		// The kernel may take a second victim while the first is on its way out: not the shell.
		"(echo 1000 >/proc/self/oom_score_adj; head -c 200000000 /dev/zero | tail -c 200000000 | wc -c); exit 1"))
	if e := n.Exit(); !e.OOM || e.Code != 1 {
		t.Errorf("exit %+v", e)
	}
	n.Launch(n.bundle("fine", memory, "sh", "-c", "kill -9 $$"))
	if e := n.Exit(); e.OOM || e.Signal != 0 && e.Signal != 9 {
		t.Errorf("exit %+v", e)
	}
}

func TestRuntimeKillAll(t *testing.T) {
	n := startRuntimeNode(t)
	host := func(s *specs.Spec) { // no PID namespace that would end with its first process
		s.Linux.Namespaces = s.Linux.Namespaces[:1]
	}
	l := n.bundle("c", host, "sh", "-c", "(trap '' TERM; sleep 1000 & sleep 1001) & echo left; exit 2")
	l.KillAll = true
	n.Launch(l)
	if e := n.Exit(); e.Code != 2 {
		t.Errorf("exit %+v", e)
	}
	for _, dir := range l.Cgroups {
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(b) > 0 {
			t.Errorf("%s still has %q", dir, b)
		}
	}
}

func TestRuntimeTerminalAndExec(t *testing.T) {
	n := startRuntimeNode(t)
	n.Launch(n.bundle("tty", func(s *specs.Spec) { s.Process.Terminal = true }, "sh", "-c", "stty size; echo up; read x; exit 3"))
	n.WaitLog("tty", "up")
	process := filepath.Join(n.Dir, "process.json")
	run := func(terminal bool, command ...string) *monitor.Process {
		b, err := json.Marshal(specs.Process{Args: command, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, Terminal: terminal})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(process, b, 0o600); err != nil {
			t.Fatal(err)
		}
		e := monitor.Exec{Env: []string{"PATH=/usr/bin:/bin"}, PidFile: filepath.Join(n.Dir, "exec.pid"), Terminal: terminal}
		e.Argv = append(n.argv(), "exec", "--detach", "--process", process, "--pid-file", e.PidFile)
		var out *os.File
		if terminal {
			e.Argv = append(e.Argv, "--console-socket", "{console}")
		} else {
			var err error
			if out, err = os.Create(filepath.Join(n.Dir, "out")); err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			e.Stdout, e.Stderr = out, out
		}
		e.Argv = append(e.Argv, "tty")
		p, err := n.Client.Exec(n.Ctx(), e)
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(n.Dir, "runc.log"))
			t.Fatalf("%v: %s", err, log)
		}
		return p
	}
	p := run(false, "sh", "-c", "echo in; exit 7")
	if e, err := p.Wait(n.Ctx()); err != nil || e.Code != 7 {
		t.Errorf("exec ended %+v, %v", e, err)
	}
	if b, _ := os.ReadFile(filepath.Join(n.Dir, "out")); string(b) != "in\n" {
		t.Errorf("exec wrote %q", b)
	}
	p = run(true, "sh", "-c", "tty; exit 8")
	b, _ := io.ReadAll(p.Console) // ends with EIO
	p.Console.Close()
	if e, err := p.Wait(n.Ctx()); err != nil || e.Code != 8 || !strings.HasPrefix(string(b), "/dev/pts/") {
		t.Errorf("terminal exec ended %+v, %v; wrote %q", e, err, b)
	}
	a := n.Attach("tty")
	if _, err := a.Stdin.Write([]byte("x\n")); err != nil {
		t.Error(err)
	}
	if e := n.Exit(); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
}

// TestRuntimeCleanStart looks at what a container inherits from the real
// monitor by way of the runtime.
func TestRuntimeCleanStart(t *testing.T) {
	n := startRuntimeNode(t, monitornode.BuildMonitor(t))
	n.Launch(n.bundle("c", nil, "grep", "-E", "^Sig(Blk|Ign)|^NSsid", "/proc/self/status"))
	n.Exit()
	const want = "NSsid:\t1\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != want {
		t.Errorf("status %q, want %q", got, want)
	}
}
