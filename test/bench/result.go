// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
)

// What is measured besides the single calls.
const (
	podUp    = "pod up"
	podDown  = "pod down"
	execSync = "ExecSync of a program that ends at once"
	back     = "back after kill -9, with all pods listed"
	podsUp   = "pods up per second"
	podsDown = "pods down per second"
	perPod   = "memory per pod, KiB"
	wakeups  = "wake-ups per second, idle with all pods"
)

var calls = []string{
	"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox",
}

// result is what was measured of one runtime.
type result struct {
	Kind    node.Kind
	Samples map[string][]time.Duration // sorted when frozen
	Values  map[string]float64
	Memory  map[string][2]int64 // by program: bytes without pods, bytes more per pod

	mu     sync.Mutex
	frozen bool
}

func newResult(kind node.Kind) *result {
	return &result{Kind: kind, Samples: map[string][]time.Duration{}, Values: map[string]float64{}, Memory: map[string][2]int64{}}
}

// add keeps a sample, unless the result is frozen.
func (r *result) add(name string, d time.Duration) {
	if !r.frozen {
		r.keep(name, d)
	}
}

func (r *result) keep(name string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Samples[name] = append(r.Samples[name], d)
}

func (r *result) forget() { clear(r.Samples) }
func (r *result) freeze() { r.frozen = true }

// quantile is in milliseconds; NaN when nothing was measured.
func (r *result) quantile(name string, q float64) float64 {
	s := slices.Sorted(slices.Values(r.Samples[name]))
	if len(s) == 0 {
		return math.NaN()
	}
	at := min(len(s)-1, int(q*float64(len(s))))
	return float64(s[at].Microseconds()) / 1000
}

func (r *result) value(name string) float64 {
	v, ok := r.Values[name]
	if !ok {
		return math.NaN()
	}
	return v
}

// show prints the runtimes side by side. The ratio is ours to the best rival's.
func show(results []*result) {
	if len(results) == 0 {
		return
	}
	fmt.Printf("\n%-44s", "milliseconds: p50 / p95")
	for _, r := range results {
		fmt.Printf("%20s", r.Kind)
	}
	fmt.Printf("%10s\n", "ratio")
	for _, name := range slices.Concat([]string{podUp, podDown}, calls, []string{execSync, back}) {
		row(results, name, func(r *result) (float64, string) {
			p50 := r.quantile(name, 0.5)
			return p50, fmt.Sprintf("%.1f / %.1f", p50, r.quantile(name, 0.95))
		}, false)
	}
	crowded := []string{statsCall}
	for _, when := range []string{quietly, busily} {
		for _, call := range crowdCalls {
			crowded = append(crowded, call+when)
		}
	}
	for _, name := range crowded {
		row(results, name+" (p50 / p99)", func(r *result) (float64, string) {
			p99 := r.quantile(name, 0.99)
			return p99, fmt.Sprintf("%.1f / %.1f", r.quantile(name, 0.5), p99)
		}, false)
	}
	fmt.Println()
	for _, name := range []string{podsUp, podsDown, perPod, wakeups, statsCPU} {
		row(results, name, func(r *result) (float64, string) {
			return r.value(name), fmt.Sprintf("%.1f", r.value(name))
		}, name == podsUp || name == podsDown)
	}
	fmt.Println("\nmemory (PSS) by program: without pods, and more per pod")
	for _, r := range results {
		for _, name := range slices.Sorted(maps.Keys(r.Memory)) {
			m := r.Memory[name]
			fmt.Printf("  %-12s %-26s %8d KiB %+10.1f KiB\n", r.Kind, name, m[0]>>10, float64(m[1])/1024)
		}
	}
}

// row prints one measurement of every runtime and the ratio of ours to the best rival's.
func row(results []*result, name string, of func(*result) (float64, string), more bool) {
	var line strings.Builder
	fmt.Fprintf(&line, "%-44s", name)
	ours, best := math.NaN(), math.NaN()
	for _, r := range results {
		v, text := of(r)
		fmt.Fprintf(&line, "%20s", text)
		switch {
		case r.Kind == node.CRIShim:
			ours = v
		case math.IsNaN(best) || more && v > best || !more && v < best:
			best = v
		}
	}
	if !math.IsNaN(ours / best) {
		fmt.Fprintf(&line, "%10.2f", ours/best)
	}
	fmt.Println(line.String())
}
