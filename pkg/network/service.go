// SPDX-License-Identifier: Apache-2.0

// Package network attaches pods to a network through CNI: ADD, DEL, STATUS and GC on libcni, with the
// configuration of a directory that may change, vanish and come back while the daemon runs.
//
// Invariants:
//   - What a DEL needs is on disk before the first plugin runs (attachments/ID.json under CacheDir), and goes only when
//     DEL has succeeded. So Del needs no more than the pod's id, works when the configuration has changed or the
//     namespace is gone, and is the roll-back, the stop and the crash recovery alike.
//   - Every plugin run is bounded by Options.Timeout, then killed with its children; the error names plugin and command.
//   - An ADD or DEL that was begun is let finish, also when its caller gives up or this process dies. For one pod one
//     plugin runs at a time, and the next one, of a next process too, waits for it.
//   - Nothing that happens to the configuration directory ends the service. Its files are looked at on each use; the
//     watch only makes a change known sooner.
//   - Status never waits for a plugin that hangs.
//
// It does not make or remove network namespaces (pkg/sys does), knows nothing of pods' lives and never sees pods on the
// host's network.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// ifName is the pod's interface; the kubelet and all of its users count on this name.
const ifName = "eth0"

// Options of New. ConfDir, BinDirs and CacheDir are required.
type Options struct {
	ConfDir  string        // network configurations, the first valid one by file name is used; need not exist
	BinDirs  []string      // plugins are searched here in order
	CacheDir string        // what is attached; must survive the daemon, so not a tmpfs that is cleaned with it
	LockDir  string        // locks of attachments at work, for this service alone; on a tmpfs. "" means a directory in CacheDir
	Timeout  time.Duration // for all the plugins of one ADD or DEL; 0 means 2 minutes
	// DefaultNetwork makes pods use a generated bridge network as long as ConfDir holds no configuration at all.
	DefaultNetwork bool
	Default        DefaultNetwork
	Log            *slog.Logger
}

// Service is the node's CNI side. Its methods may be called concurrently.
type Service struct {
	o     Options
	log   *slog.Logger
	locks *program.Locks // one for each attachment, by the pod's id
	conf  atomic.Pointer[conf]

	loadMu sync.Mutex // guards loading the configuration

	// adds is held shared by each Add and exclusively by a plugin GC, as a plugin that collects garbage would take
	// what an ADD has just made. GC only tries to take it, so a hanging ADD never holds up others.
	adds sync.RWMutex

	setting sync.Mutex          // held through a change of podCIDR, on disk and then here
	mu      sync.Mutex          // guards mine and podCIDR
	mine    map[string]struct{} // pods attached in this process's life: never garbage, whatever a caller's older list says
	podCIDR []string

	status status
	defMu  sync.Mutex // guards def
	def    defaultState
}

// New makes the service and loads the configuration, if there is one yet. It runs no plugin.
func New(o Options) (*Service, error) {
	if o.ConfDir == "" || o.CacheDir == "" || len(o.BinDirs) == 0 {
		return nil, fmt.Errorf("network options: configuration, plugin and cache directories are required: %w", errdefs.ErrInvalidArgument)
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LockDir == "" {
		o.LockDir = filepath.Join(o.CacheDir, "locks")
	}
	o.Default = o.Default.withDefaults()
	s := &Service{o: o, log: o.Log, locks: program.NewLocks(o.LockDir), mine: map[string]struct{}{}}
	if err := s.loadPodCIDRs(); err != nil {
		return nil, err
	}
	s.current()
	return s, nil
}

// ready is the network that a new pod would join, if its plugins are installed. ErrUnavailable. It looks at a few files
// and runs nothing.
func (s *Service) ready() (*libcni.NetworkConfigList, error) {
	list, err := s.list()
	if err != nil {
		return nil, err
	}
	return list, s.installed(list)
}

// installed says whether all plugins of a network are there. ErrUnavailable.
func (s *Service) installed(list *libcni.NetworkConfigList) error {
	exec := pluginExec{}
	for _, p := range list.Plugins {
		if _, err := exec.FindInPath(p.Network.Type, s.o.BinDirs); err != nil {
			return fmt.Errorf("network %q: %w", list.Name, err)
		}
	}
	return nil
}

// list is the network that a new pod would join: the directory's, else the generated one if that is allowed.
func (s *Service) list() (*libcni.NetworkConfigList, error) {
	c := s.current()
	if c.list != nil {
		return c.list, nil
	}
	if s.o.DefaultNetwork && c.empty {
		return s.defaultList(true)
	}
	return nil, c.err
}

// deadline bounds one operation; the error that ends it says how long that was.
func (s *Service) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.o.Timeout, fmt.Errorf("no answer within %s: %w", s.o.Timeout, context.DeadlineExceeded))
}

// cni is libcni with our way to run a plugin.
func (s *Service) cni(p pluginExec) *libcni.CNIConfig {
	p.log = s.log
	return libcni.NewCNIConfigWithCacheDir(s.o.BinDirs, s.o.CacheDir, &p)
}

func (s *Service) path(elem ...string) string {
	return filepath.Join(append([]string{s.o.CacheDir}, elem...)...)
}
