// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// BenchmarkRecovery measures how long a daemon that was killed takes to answer
// its first request again, with pods on the node. The goal is 200 ms with 100.
func BenchmarkRecovery(b *testing.B) {
	pods := int(nodetest.Number("CRASH_PODS", 100))
	d := start(b)
	for i := range pods {
		config := d.PodConfig(fmt.Sprintf("pod-%d", i))
		d.Run(b, d.Pod(b, config), nodetest.ContainerConfig(fmt.Sprintf("app-%d", i), "sleep"), config)
	}
	var recovered []string
	for b.Loop() {
		b.StopTimer()
		if err := d.Kill(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := d.Up(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for line := range strings.Lines(d.Log()) {
		if _, rest, ok := strings.Cut(line, "msg=serving "); ok {
			_, took, _ := strings.Cut(rest, "dur=")
			recovered = append(recovered, strings.TrimSpace(took))
		}
	}
	b.Logf("of these, from the end of wiring to serving: %s", strings.Join(recovered, " "))
}

// BenchmarkBusyRecovery measures how long the first List takes to be answered
// after daemon and monitor were killed at once, with CRASH_PODS pods on the
// node, of which 30 write a line each millisecond, while pods come and go. The goal
// is 300 ms with 100. CRASH_OTHER, the path of another cri-shim, makes it take
// turns with that one, whose times are listed apart: a busy machine gives no
// times that could be compared otherwise.
func BenchmarkBusyRecovery(b *testing.B) {
	const writers = 30
	pods := int(nodetest.Number("CRASH_PODS", 100))
	d := start(b)
	for i := range pods {
		config := d.PodConfig(fmt.Sprintf("pod-%d", i))
		command := []string{"sleep"}
		if i < writers {
			command = []string{"lines", "0", "1"} // a line each millisecond
		}
		d.Run(b, d.Pod(b, config), nodetest.ContainerConfig(fmt.Sprintf("app-%d", i), command...), config)
	}
	over, stop := context.WithCancel(b.Context())
	c := &churn{Node: d, t: b, over: over}
	var load sync.WaitGroup
	c.runPods(&load, 1)
	programs := []string{nodetest.Bin(b, "cri-shim")}
	if other := os.Getenv("CRASH_OTHER"); other != "" {
		programs = append(programs, other)
	}
	took := map[string][]time.Duration{}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		time.Sleep(time.Duration(1000+rand.IntN(1000)) * time.Millisecond)
		d.Program = programs[i%len(programs)]
		c.seen.monitors.Add(1)
		c.seen.daemons.Add(1)
		syscall.Kill(d.MonitorPID(), syscall.SIGKILL)
		if err := d.Kill(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		if err := d.Up(b.Context()); err != nil {
			b.Fatal(err)
		}
		took[d.Program] = append(took[d.Program], time.Since(began))
	}
	stop()
	load.Wait()
	for _, program := range programs {
		b.Logf("%s: %s", program, distribution(took[program]))
	}
}

// distribution says how times are spread.
func distribution(times []time.Duration) string {
	if len(times) == 0 {
		return "none"
	}
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(time.Millisecond)
	}
	return fmt.Sprintf("%d times: least %s, median %s, p90 %s, most %s", len(times), at(0), at(0.5), at(0.9), at(1))
}
