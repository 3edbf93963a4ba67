// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// awaitEnd waits for the end of the process pid.
func awaitEnd(ctx context.Context, pid int) error {
	p, err := sys.OpenProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	return p.AwaitEnd(ctx)
}

// Waiting for the ends of many processes costs no thread for each, and ends with
// the context.
func TestAwaitEndTakesNoThread(t *testing.T) {
	const waits = 200
	one := exec.Command("/bin/sleep", "1000")
	if err := one.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = one.Process.Kill()
		_ = one.Wait()
	})
	before := threads(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	began, ended := make(chan struct{}, waits), make(chan error, waits)
	for range waits {
		go func() {
			began <- struct{}{}
			ended <- awaitEnd(ctx, one.Process.Pid)
		}()
	}
	for range waits {
		<-began
	}
	time.Sleep(100 * time.Millisecond) // they block by then
	if now := threads(t); now > before+waits/2 {
		t.Errorf("%d threads, %d before %d waits", now, before, waits)
	}
	why := errors.New("enough")
	cancel(why)
	for range waits {
		if err := <-ended; !errors.Is(err, why) {
			t.Fatalf("%v, want the context's cause", err)
		}
	}
}

func threads(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "Threads:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
