// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// weight is what a daemon and its monitor cost.
type weight struct {
	descriptors, threads, goroutines int
	pss                              int // KiB
}

func (w weight) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %d KiB", w.descriptors, w.threads, w.goroutines, w.pss)
}

func weigh(t testing.TB, d *nodetest.Node, metrics string) weight {
	t.Helper()
	var w weight
	for _, pid := range []int{d.PID(), d.MonitorPID()} {
		proc := fmt.Sprintf("/proc/%d/", pid)
		fds, _ := os.ReadDir(proc + "fd")
		tasks, _ := os.ReadDir(proc + "task")
		w.descriptors += len(fds)
		w.threads += len(tasks)
		w.pss += field(t, proc+"smaps_rollup", "Pss:")
	}
	w.goroutines = gauge(t, metrics, "go_goroutines")
	return w
}

func field(t testing.TB, path, name string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return 0
}

// gauge reads one metric; 0 when the daemon does not serve it.
func gauge(t testing.TB, address, name string) int {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.0\r\n\r\n")
	data := make([]byte, 0, 1<<16)
	for {
		chunk := make([]byte, 1<<14)
		n, err := c.Read(chunk)
		data = append(data, chunk[:n]...)
		if err != nil {
			break
		}
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// TestRoundsOfPods brings pods up twenty at a time and down again, several
// times: nothing may grow from round to round.
func TestRoundsOfPods(t *testing.T) {
	pods, rounds := int(number("CRASH_PODS", 150)), 3
	if os.Getenv("CRASH_KILLS") == "" {
		pods = int(number("CRASH_PODS", 40))
	}
	metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	d := nodetest.New(t, nodetest.Preload(t))
	d.Edit(t, "[cni]\n", fmt.Sprintf("[metrics]\naddress = %q\n[cni]\n", metrics))
	d.StartFor(t)
	n := &node{Node: d, t: t}
	n.AwaitImage(n.t, nodetest.TestImage)
	warm(t, d)
	clean := d.Look(t)
	var after []weight
	for round := range rounds {
		began := time.Now()
		up := n.many(t, pods, "up", nil)
		upTook := time.Since(began)
		full := weigh(t, d, metrics)
		began = time.Now()
		n.many(t, pods, "down", up)
		t.Logf("round %d: %d pods up in %s (%.1f/s), down in %s; up: %v", round, pods, upTook.Round(time.Millisecond),
			float64(pods)/upTook.Seconds(), time.Since(began).Round(time.Millisecond), full)
		d.AwaitSame(t, clean, fmt.Sprintf("after round %d", round))
		time.Sleep(2 * time.Second) // what idles is given back
		w := weigh(t, d, metrics)
		t.Logf("round %d: left: %v", round, w)
		after = append(after, w)
	}
	first, last := after[0], after[rounds-1]
	if last.descriptors > first.descriptors+4 || last.goroutines > first.goroutines+4 || last.pss > first.pss*5/4+2048 {
		t.Errorf("after round 1 %v, after round %d %v", first, rounds, last)
	}
}

// many brings pods with a container up, or those given down, twenty at a time.
func (n *node) many(t *testing.T, count int, what string, worlds []*world) []*world {
	t.Helper()
	if worlds == nil {
		for range count {
			w := n.world(t)
			w.config.PortMappings = nil
			worlds = append(worlds, w)
		}
	}
	var group sync.WaitGroup
	tokens := make(chan struct{}, 20)
	for _, w := range worlds {
		group.Go(func() {
			tokens <- struct{}{}
			defer func() { <-tokens }()
			var err error
			if what == "up" {
				if err = w.run(); err == nil {
					err = w.create()
				}
				if err == nil {
					_, err = w.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: w.id})
				}
			} else {
				err = errors.Join(w.stopPod(), w.removePod())
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	group.Wait()
	return worlds
}

// BenchmarkRecovery measures how long a daemon that was killed takes to answer
// its first request again, with pods on the node. The goal is 200 ms with 100.
func BenchmarkRecovery(b *testing.B) {
	pods := int(number("CRASH_PODS", 100))
	d := nodetest.Start(b, nodetest.Preload(b))
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
