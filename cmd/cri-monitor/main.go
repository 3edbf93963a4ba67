// SPDX-License-Identifier: Apache-2.0

// Command cri-monitor is the node's one parent of containers: see pkg/monitor/parent.
// It runs in the foreground; its starter detaches it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/parent"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// The live heap is a few hundred KiB and its growth is small change: a collector
// that runs early costs nothing here and keeps the resident size down.
const (
	collectAt   = 25       // percent of growth; the runtime's floor becomes 1 MiB
	memoryLimit = 64 << 20 // bytes; only a leak comes near
	processors  = 2
	wantedAdj   = -999 // of oom_score_adj; -1000 would exempt even a monitor that leaks
)

type options struct {
	dir, socket, cgroup string
	readyFD             int
	check               bool
}

func main() {
	if err := sys.OffFirstThread(work); err != nil {
		fmt.Fprintln(os.Stderr, "cri-monitor:", err)
		os.Exit(1)
	}
}

// work is the whole program. The error is also reported to the starter.
func work() error {
	runtime.GOMAXPROCS(processors)
	debug.SetGCPercent(collectAt)
	debug.SetMemoryLimit(memoryLimit)
	var o options
	flag.StringVar(&o.dir, "dir", "/run/cri-shim/monitor", "state `directory`, on a tmpfs")
	flag.StringVar(&o.socket, "socket", "/run/cri-shim/monitor.sock", "`path` of the socket to listen on")
	flag.StringVar(&o.cgroup, "cgroup", "", "cgroup `name` to move into, from the root of every hierarchy")
	flag.IntVar(&o.readyFD, "ready-fd", -1, "`descriptor` to report readiness on")
	flag.BoolVar(&o.check, "check", false, "say which build this is, and end")
	flag.Parse()
	if o.check {
		signal.Ignore(unix.SIGHUP) // who signals all of this name means the monitor
		fmt.Println(describe())
		return nil
	}
	err := run(&o)
	if err != nil {
		o.report(err)
	}
	return err
}

func run(o *options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := sys.DefaultLibrarySignals(); err != nil {
		return err
	}
	signals := outlive(ctx, log)
	if o.readyFD >= 0 {
		unix.CloseOnExec(o.readyFD)
	}
	joinCgroup(o.cgroup, log)
	self, err := startedFrom()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	return parent.Run(ctx, parent.Options{
		Dir: o.dir, Socket: o.socket, OOMScoreAdj: protect(log), Log: log,
		Executable: self, Args: []string{"--dir", o.dir, "--socket", o.socket, "--cgroup", o.cgroup},
		Check: []string{"--check"}, BeforeExec: signals.ignore, Upgrades: signals.upgrades, Build: build,
		Listening: func() { o.report(nil) },
	})
}

// report tells the starter, once, whether the monitor runs: afterwards the number
// of the descriptor is another's.
func (o *options) report(err error) {
	if o.readyFD < 0 {
		return
	}
	said := "ready"
	switch {
	case errors.Is(err, wire.ErrRunning):
		said = wire.ErrRunning.Error()
	case err != nil:
		said = err.Error()
	}
	_, _ = unix.Write(o.readyFD, []byte(said)) // the starter may be gone
	unix.Close(o.readyFD)
	o.readyFD = -1
}

// protect makes the OOM killer look elsewhere as far as we are allowed to. It
// returns what programs we launch are to have instead, "" if nothing changed.
func protect(log *slog.Logger) string {
	const path = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strconv.Itoa(wantedAdj)), 0)
	}
	if err != nil {
		log.Warn("oom_score_adj not lowered", "wanted", wantedAdj, "have", strings.TrimSpace(string(before)), "err", err)
		return ""
	}
	if own, err := strconv.Atoi(strings.TrimSpace(string(before))); err != nil || own < 0 {
		return "0" // a service manager has lowered it before us
	}
	return strings.TrimSpace(string(before))
}

// joinCgroup moves this process into a cgroup of its own, so that what it uses
// is neither the daemon's nor a pod's. Failing that it stays where it is.
func joinCgroup(name string, log *slog.Logger) {
	if name == "" {
		return
	}
	for _, dir := range cgroup.Dirs("/" + strings.Trim(name, "/")) {
		if filepath.Base(filepath.Dir(dir)) == "cpuset" {
			continue // v1: empty until configured, and of no use here
		}
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
		}
		if err != nil {
			log.Warn("cgroup not joined", "dir", dir, "err", err)
		}
	}
}
