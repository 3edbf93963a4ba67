// SPDX-License-Identifier: Apache-2.0

package pause_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/cmd/pause"
	"github.com/cri-shim/cri-shim/test/await"
)

// install writes the embedded file where it can be executed.
func install(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri-pause")
	if err := os.WriteFile(path, pause.Binary(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs path with the given argv and attributes and waits until it
// sleeps in its signal wait.
func start(t *testing.T, path string, argv []string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	cmd := &exec.Cmd{Path: path, Args: argv, Env: []string{}, SysProcAttr: attr}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	await.Until(t, 10*time.Second, "the signal wait", func() bool { return waiting(t, cmd.Process.Pid) })
	return cmd
}

// waiting reports whether pid sleeps in rt_sigtimedwait.
func waiting(t *testing.T, pid int) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(b), strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)+" ")
}

func TestSignalsEndIt(t *testing.T) {
	path := install(t)
	tests := []struct {
		name string
		argv []string
		sig  syscall.Signal
		want string
	}{
		{"term", []string{"pause"}, syscall.SIGTERM, "exit status 0"},
		{"int", []string{"pause"}, syscall.SIGINT, "exit status 0"},
		{"term, empty argv", []string{}, syscall.SIGTERM, "exit status 0"},
		{"kill", []string{"pause"}, syscall.SIGKILL, "signal: killed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := start(t, path, tt.argv, nil)
			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.String(); got != tt.want {
				t.Errorf("ended with %q, want %q", got, tt.want)
			}
		})
	}
}

func TestIgnoredDispositionDoesNotMatter(t *testing.T) {
	path := install(t)
	// A shell that ignores TERM hands the disposition down through exec.
	cmd := exec.Command("/bin/sh", "-c", `trap "" TERM CHLD; exec `+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, 10*time.Second, "the signal wait", func() bool { return waiting(t, cmd.Process.Pid) })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want status 0", err)
	}
}

func TestFirstProcessOfPIDNamespaceReaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a PID namespace")
	}
	cmd := start(t, install(t), []string{"pause"}, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
	pid := cmd.Process.Pid

	// Orphans: grandchildren whose parent, inside the namespace, is gone.
	const shells, each = 20, 10
	enter(t, pid, func() {
		for range shells {
			sh := exec.Command("/bin/sh", "-c", `i=0; while [ $i -lt `+strconv.Itoa(each)+` ]; do (sleep 0.01 & ); i=$((i+1)); done`)
			if out, err := sh.CombinedOutput(); err != nil {
				t.Errorf("run shell in namespace: %v: %s", err, out)
			}
		}
	})
	await.Until(t, 10*time.Second, "every orphan to end and be reaped", func() bool { return len(children(t, pid)) == 0 })

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("PID 1 ended with %v, want status 0", err)
	}
}

// enter runs f on a thread whose children live in pid's PID namespace.
func enter(t *testing.T, pid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Errorf("open pidfd: %v", err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWPID); err != nil {
			t.Errorf("enter PID namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// children lists "pid state" of every child of pid, zombies included.
func children(t *testing.T, pid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[1] == strconv.Itoa(pid) {
			out = append(out, p+" "+f[0])
		}
	}
	return out
}

func TestMemory(t *testing.T) {
	cmd := start(t, install(t), []string{}, nil)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] != "Rss:" {
			continue
		}
		kib, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("RSS %d KiB, ELF %d bytes", kib, len(pause.Binary()))
		if kib > 32 {
			t.Errorf("RSS is %d KiB, want at most 32", kib)
		}
		return
	}
	t.Fatal("no Rss line in smaps_rollup")
}

func TestFiles(t *testing.T) {
	for _, tt := range []struct {
		path    string
		machine elf.Machine
	}{{"pause_amd64", elf.EM_X86_64}, {"pause_arm64", elf.EM_AARCH64}} {
		t.Run(tt.path, func(t *testing.T) {
			info, err := os.Stat(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() > 1200 {
				t.Errorf("%d bytes, want at most 1200", info.Size())
			}
			f, err := elf.Open(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != tt.machine || f.Type != elf.ET_EXEC {
				t.Errorf("is %v %v", f.Machine, f.Type)
			}
			for _, p := range f.Progs {
				if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
					t.Errorf("segment %v is writable and executable", p.Type)
				}
				if p.Type == elf.PT_INTERP {
					t.Error("is not static")
				}
			}
		})
	}
}

func TestARM64UnderEmulation(t *testing.T) {
	if runtime.GOARCH == "arm64" {
		t.Skip("native here, covered by the other tests")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("needs qemu-aarch64-static (Debian: qemu-user-static)")
	}
	elfPath, err := filepath.Abs("pause_arm64")
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := start(t, qemu, []string{qemu, elfPath}, nil)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: ended with %v, want status 0", sig, err)
		}
	}
}
