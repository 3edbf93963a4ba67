// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
	if err := awaitEnd(ctx, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	st, err = sys.ReadProcStat(cmd.Process.Pid)
	if err != nil || st.State != 'Z' || st.Status.ExitStatus() != 42 {
		t.Errorf("zombie: %+v, %v", st, err)
	}
	if ended, reaped := sys.PidfdEnded(fd); !ended || reaped {
		t.Errorf("zombie: ended %v, reaped %v", ended, reaped)
	}
	if said := sys.ProcessState(cmd.Process.Pid); said != "a zombie (Z)" {
		t.Errorf("zombie: %s", said)
	}
	_ = cmd.Wait()
	if said := sys.ProcessState(cmd.Process.Pid); said != "gone" {
		t.Errorf("reaped: %s", said)
	}
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
