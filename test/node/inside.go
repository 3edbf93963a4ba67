// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// descriptors are what daemon and monitor have open, by what it is and without the numbers that tell two of a kind apart.
// Sockets and the kernel's queues are left out, because clients come and go, and pipes of this process, because they
// were inherited. Pipes, process and terminal descriptors, namespaces and files of pods are a container's.
func (n *Node) descriptors() ([]Item, error) {
	inherited := map[string]bool{}
	for _, target := range openFiles(os.Getpid()) {
		inherited[target] = strings.HasPrefix(target, "pipe:")
	}
	companions := n.companions()
	var out []Item
	for name, pid := range companions {
		for fd, target := range openFiles(pid) {
			switch {
			case passing.MatchString(target), inherited[target], procfs(pid, fd):
				continue
			case target == "anon_inode:[pidfd]" && processOf(pid, fd) == companions["cri-monitor"]: // of whom the daemon has started
				out = append(out, Item{Name: name + " pidfd of cri-monitor", Span: Kept})
				continue
			}
			i := Item{Name: name + " " + numbers.ReplaceAllString(target, ""), Span: Kept}
			if ofContainer.MatchString(target) || longID.MatchString(target) {
				i.Span = OfPod
			}
			out = append(out, i)
		}
	}
	return out, nil
}

var (
	numbers     = regexp.MustCompile(`\[\d+\]`)
	passing     = regexp.MustCompile(`^socket:|\[event(poll|fd)\]`)
	ofContainer = regexp.MustCompile(`^(pipe:|net:|anon_inode:\[pidfd\]|/dev/ptmx)|/logs/`)
)

// companions are the process ids of the node's daemon and monitor that run.
func (n *Node) companions() map[string]int {
	out := map[string]int{}
	if n.Kind != CRIShim {
		return out
	}
	if n.Running() {
		out["cri-shim"] = n.PID()
	}
	if pid := n.MonitorPID(); pid != 0 {
		out["cri-monitor"] = pid
	}
	return out
}

// openFiles are a process's descriptors and what each is.
func openFiles(pid int) map[string]string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	out := map[string]string{}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			out[filepath.Base(link)] = target
		}
	}
	return out
}

// procfs tells whether a descriptor is that of the whole of /proc, which a library opens once and keeps.
func procfs(pid int, fd string) bool {
	link := fmt.Sprintf("/proc/%d/fd/%s", pid, fd)
	target, err := os.Readlink(link)
	if err != nil || target != "/" && target != "/proc" {
		return false
	}
	var s unix.Statfs_t
	return unix.Statfs(link, &s) == nil && s.Type == unix.PROC_SUPER_MAGIC
}

// processOf is the process that a process descriptor is for; -1 when it has ended.
func processOf(pid int, fd string) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pid:"); ok {
			if of, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil {
				return of
			}
		}
	}
	return -1
}

// goroutines counts those of the daemon, where it has metrics. The monitor tells nobody: its package's tests look.
func (n *Node) goroutines() ([]Item, error) {
	if n.Metrics == "" || !n.Running() {
		return nil, nil
	}
	count, err := n.Gauge("go_goroutines")
	if err != nil {
		return nil, nil //nolint:nilerr // it is starting, or ending
	}
	out := make([]Item, int(count))
	for i := range out {
		out[i] = Item{Name: "cri-shim", Span: Kept}
	}
	return out, nil
}

// Gauge reads one of the daemon's metrics.
func (n *Node) Gauge(name string) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Metrics+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	request.Close = true // a connection that is kept has goroutines of its own
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), " "); ok && key == name {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("read metrics: no %s", name), lines.Err())
}

// races fails with the first report of a data race that the daemon or its monitor made: they were built to look for some.
func (n *Node) races() error {
	_, report, found := strings.Cut(n.Log(), "WARNING: DATA RACE")
	if !found {
		return nil
	}
	report, _, _ = strings.Cut(report, "\n==================")
	return fmt.Errorf("data race:%s", report)
}
