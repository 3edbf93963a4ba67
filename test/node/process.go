// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Process is a process below this one.
type Process struct {
	PID, Parent int
	Name        string // of the program
	State       byte   // as /proc says: R S D Z T ...
}

// String is how leaks name a process.
func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, p.Name) }

// Descendants lists every process below this one. Call Adopt before the first one starts.
func Descendants() ([]Process, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]Process{}
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it ended in between
		}
		if p, ok := parseStat(string(data)); ok {
			children[p.Parent] = append(children[p.Parent], p)
		}
	}
	var found []Process
	for queue := []int{os.Getpid()}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			found = append(found, p)
			queue = append(queue, p.PID)
		}
	}
	return found, nil
}

func parseStat(line string) (Process, bool) {
	open, closing := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || closing < open {
		return Process{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	rest := strings.Fields(line[closing+1:])
	if err != nil || len(rest) < 2 {
		return Process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	p := Process{PID: pid, Parent: parent, Name: line[open+1 : closing], State: rest[0][0]}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		p.Name = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	return p, err == nil
}

// PSS is the process's share of memory in bytes: what it has alone, and its part of what it has in common with others.
func (p Process) PSS() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, nil // a zombie has none
}

// Memory adds up the PSS of the runtime's own processes, by program. What containers run is left out.
func Memory() (map[string]int64, error) {
	list, err := Descendants()
	if err != nil {
		return nil, err
	}
	sum := map[string]int64{}
	for _, p := range list {
		if !slices.Contains(runtimePrograms, p.Name) {
			continue
		}
		pss, err := p.PSS()
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return nil, fmt.Errorf("read memory of %s: %w", p.Name, err)
		}
		sum[p.Name] += pss
	}
	return sum, nil
}

// runtimePrograms are the processes that a runtime spends on its pods, the infra process of a pod among them.
var runtimePrograms = []string{
	"cri-shim", "cri-monitor", "pause", "pause_amd64", "pause_arm64", "cri-pause", "containerd", "containerd-shim-runc-v2", "crio", "conmon", "conmonrs",
}

// reap collects adopted orphans that have ended. Processes that os/exec started are waited for where they were started.
func reap(list []Process) {
	for _, p := range list {
		if p.State == 'Z' && p.Parent == os.Getpid() {
			var status syscall.WaitStatus
			_, _ = syscall.Wait4(p.PID, &status, syscall.WNOHANG, nil)
		}
	}
}

// lastLines is the end of a log as an error's text.
func lastLines(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return errors.New(strings.Join(lines[max(0, len(lines)-3):], " | "))
}

// Wakeups adds up how often the threads of the runtime's own processes have gone to sleep so far: what grows while a
// node is idle is what its timers cost.
func Wakeups() (int64, error) {
	list, err := Descendants()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range list {
		if !slices.Contains(runtimePrograms, p.Name) {
			continue
		}
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.PID))
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				continue // the thread ended in between
			}
			_, rest, _ := strings.Cut(string(data), "\nvoluntary_ctxt_switches:")
			count, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
			n, err := strconv.ParseInt(count, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			sum += n
		}
	}
	return sum, nil
}
