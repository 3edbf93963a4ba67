// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// weight is what a daemon and its monitor cost.
type weight struct {
	descriptors, threads, goroutines int
	pss                              int // KiB
}

func (w weight) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %d KiB", w.descriptors, w.threads, w.goroutines, w.pss)
}

func weigh(t testing.TB, d *nodetest.Node) weight {
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
	goroutines, err := d.Gauge("go_goroutines")
	if err != nil {
		t.Fatal(err)
	}
	w.goroutines = int(goroutines)
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

// TestRoundsOfPods brings pods up twenty at a time and down again, several
// times: nothing may grow from round to round.
func TestRoundsOfPods(t *testing.T) {
	pods, rounds := int(nodetest.Number("CRASH_PODS", 150)), 3
	if short() {
		pods = int(nodetest.Number("CRASH_PODS", 40))
	}
	d := prepared(t, func(d *nodetest.Node) { d.Watch(t) })
	warm(t, d)
	clean := d.Look(t)
	var after []weight
	for round := range rounds {
		began := time.Now()
		up := many(t, d, pods, "up", nil)
		upTook := time.Since(began)
		full := weigh(t, d)
		began = time.Now()
		many(t, d, pods, "down", up)
		t.Logf("round %d: %d pods up in %s (%.1f/s), down in %s; up: %v", round, pods, upTook.Round(time.Millisecond),
			float64(pods)/upTook.Seconds(), time.Since(began).Round(time.Millisecond), full)
		d.AwaitSame(t, clean, fmt.Sprintf("after round %d", round))
		time.Sleep(2 * time.Second) // what idles is given back
		w := weigh(t, d)
		t.Logf("round %d: left: %v", round, w)
		after = append(after, w)
	}
	first, last := after[0], after[rounds-1]
	if last.descriptors > first.descriptors+4 || last.goroutines > first.goroutines+4 || last.pss > first.pss*5/4+2048 {
		t.Errorf("after round 1 %v, after round %d %v", first, rounds, last)
	}
}

// many brings pods with a container up, or those given down, twenty at a time.
func many(t *testing.T, d *nodetest.Node, count int, what string, subjects []*subject) []*subject {
	t.Helper()
	if subjects == nil {
		for range count {
			w := newSubject(t, d)
			w.config.PortMappings = nil
			subjects = append(subjects, w)
		}
	}
	var group sync.WaitGroup
	tokens := make(chan struct{}, 20)
	for _, w := range subjects {
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
	return subjects
}
