// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// BenchmarkLog measures payload bytes from containers to their logs, one
// iteration being 256 MiB in all.
func BenchmarkLog(b *testing.B) {
	const total = 256 << 20
	binary, self := monitornode.BuildMonitor(b), monitornode.Self(b)
	for _, bb := range []struct{ containers, line, piece int }{
		{1, 100, 100}, {1, 100, 4096}, {1, 16 << 10, 16 << 10}, {10, 100, 4096}, {10, 16 << 10, 16 << 10},
	} {
		b.Run(fmt.Sprintf("containers=%d/line=%d/write=%d", bb.containers, bb.line, bb.piece), func(b *testing.B) {
			n := monitornode.StartWith(b, binary)
			b.SetBytes(total)
			cpu := cpuTime(b, n.PID)
			for b.Loop() {
				for i := range bb.containers {
					id := fmt.Sprint("w", i)
					_ = os.Remove(n.LogPath(id))
					n.Launch(n.Spec(id, self, monitornode.AsWriter, strconv.Itoa(total/bb.containers), strconv.Itoa(bb.line), strconv.Itoa(bb.piece)))
				}
				for range bb.containers {
					if e := n.Exit(); e.Code != 0 {
						b.Fatalf("exit %+v", e)
					}
				}
			}
			b.ReportMetric(float64((cpuTime(b, n.PID)-cpu).Milliseconds())/float64(b.N)/(total>>20), "cpu-ms/MB")
		})
	}
}

func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks per second everywhere we run
}

// BenchmarkCat is what a plain copier makes of the same writers.
func BenchmarkCat(b *testing.B) {
	const total = 256 << 20
	for _, bb := range []struct{ line, piece int }{{100, 100}, {100, 4096}, {16 << 10, 16 << 10}} {
		b.Run(fmt.Sprintf("line=%d/write=%d", bb.line, bb.piece), func(b *testing.B) {
			file := filepath.Join(monitornode.Shm(), "cri-monitor-bench-cat")
			defer os.Remove(file)
			b.SetBytes(total)
			for b.Loop() {
				line := fmt.Sprintf("%s %s %d %d %d | cat >%s", monitornode.Self(b), monitornode.AsWriter, total, bb.line, bb.piece, file)
				if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}

// BenchmarkLaunch measures one launch until its answer, and the same programs
// started without the monitor.
func BenchmarkLaunch(b *testing.B) {
	n := monitornode.Start(b)
	b.Run("monitor", func(b *testing.B) {
		for b.Loop() {
			n.Launch(n.Spec("c", "true"))
			b.StopTimer()
			n.Exit()
			b.StartTimer()
		}
	})
	b.Run("fork-exec", func(b *testing.B) {
		for b.Loop() {
			l := n.Spec("plain", "true")
			p, err := os.StartProcess(l.Argv[0], l.Argv, &os.ProcAttr{Env: l.Env, Files: make([]*os.File, 3)})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := p.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestMemory keeps the monitor's promise: at most 6 MiB without containers and
// 12 KiB for each. What the Go heap keeps after a busy time, and beside other tests, may be two MiB more.
func TestMemory(t *testing.T) {
	n := monitornode.StartWith(t, monitornode.BuildMonitor(t))
	fresh := rss(t, n.PID)
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			n.Launch(n.Spec(fmt.Sprint("c", i), "sh", "-c", "echo begun; exec sleep 1000"))
		}
	}
	const some, many = 50, 250
	fill(0, some)
	low := rss(t, n.PID)
	fill(some, many)
	high := rss(t, n.PID)
	got, err := n.Client.List(n.Ctx())
	if err != nil || len(got) != many {
		t.Errorf("list of %d, %v", len(got), err)
	}
	for _, r := range got {
		if err := n.Client.Signal(n.Ctx(), r.ID, 9); err != nil {
			t.Error(err)
		}
		n.Exit()
	}
	after := rss(t, n.PID)
	each := float64(high-low) / (many - some)
	t.Logf("RSS %d KiB fresh, %d at %d containers, %d at %d, %d after: %.1f KiB each", fresh, low, some, high, many, after, each)
	if fresh > 6<<10 || after > 8<<10 || each > 12 {
		t.Error("over budget")
	}
}

// rss is VmRSS in KiB.
func rss(t testing.TB, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(f[1])
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
