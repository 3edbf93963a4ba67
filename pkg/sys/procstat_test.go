// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestReadProcStat(t *testing.T) {
	st, err := sys.ReadProcStat(os.Getpid())
	if err != nil || st.PPID != os.Getppid() || st.StartTime == 0 {
		t.Errorf("self: %+v, %v", st, err)
	}
	cmd := exec.Command("/bin/sh", "-c", "exit 42")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := sys.PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := sys.AwaitEnd(ctx, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	st, err = sys.ReadProcStat(cmd.Process.Pid)
	if err != nil || st.State != 'Z' || st.Status.ExitStatus() != 42 {
		t.Errorf("zombie: %+v, %v", st, err)
	}
	if ended, reaped := sys.PidfdEnded(fd); !ended || reaped {
		t.Errorf("zombie: ended %v, reaped %v", ended, reaped)
	}
	_ = cmd.Wait()
	if _, err := sys.ReadProcStat(cmd.Process.Pid); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		t.Errorf("reaped: %v", err)
	}
	if status, ok := sys.PidfdStatus(fd); ok && status.ExitStatus() != 42 {
		t.Errorf("pidfd says %v", status)
	}
	if err := sys.PidfdSignal(fd, 9); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to nobody: %v", err)
	}
}

func TestMakeFIFOKeepsContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	for range 2 {
		if err := sys.MakeFIFO(path, os.Geteuid(), os.Getegid()); err != nil {
			t.Fatal(err)
		}
	}
	w, err := sys.OpenFIFO(path, unix.O_RDWR, true)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w)
	if _, err := unix.Write(w, []byte("four")); err != nil {
		t.Fatal(err)
	}
	r, err := sys.OpenFIFO(path, unix.O_RDONLY, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r)
	if n, err := sys.Readable(r); err != nil || n != 4 {
		t.Errorf("readable %d, %v", n, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sys.MakeFIFO(file, 0, 0); !errors.Is(err, unix.EEXIST) {
		t.Errorf("in place of a file: %v", err)
	}
}

func TestOOMKills(t *testing.T) {
	tests := []struct {
		name, file, content string
		want                uint64
	}{
		{"v2", "memory.events", "low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 1\n", 3},
		{"v1", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4},
		{"old v1", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", 0},
		{"garbage", "memory.events", "oom_kill\noom_kill x\n\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := sys.OOMKills([]string{"/nonexistent", dir}); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}
