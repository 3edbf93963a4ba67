// SPDX-License-Identifier: Apache-2.0

// Package node runs a CRI runtime in a place of its own, for the critest runner, the demo and the measurements: ours, or
// one it is compared with, each with the same runc, the same CNI plugins and configuration and the same registry.
//
// Everything a node writes lies below one short folder (socket paths have 107 bytes). With Isolate the whole program
// lives in mount and network namespaces of its own, so that a run can neither disturb the machine nor meet another run.
// Leaks compares what the machine holds before and after.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options describes a node.
type Options struct {
	Kind     Kind
	Dir      string // made; everything the node writes lies below
	Bin      string // our bin/: programs, runc, cni/
	Registry string // host:port of a registry that stands for the well-known ones; "" for none
	Hosts    string // its tree of hosts.toml files
	NRI      bool
	Network  Network
	Preload  string // cri-shim only: folder of images to import at start
	LogLevel string // "" for the runtime's default
}

// Network is how the node's pods get theirs.
type Network struct {
	Bridge  string
	Subnet  string // for the CNI configuration that is written
	Default bool   // cri-shim only: write none, let it bring its own network
}

// Node is a running CRI runtime.
type Node struct {
	Options
	Socket    string
	NRISocket string
	LogFile   string
	Runtime   cri.RuntimeServiceClient
	Images    cri.ImageServiceClient

	conn   *grpc.ClientConn
	daemon *exec.Cmd
	ended  chan struct{}
	cause  error
}

// startTimeout is how long a daemon may take until it answers.
const startTimeout = 60 * time.Second

// Start writes the node's configuration, starts its daemon and waits until it answers.
func Start(ctx context.Context, o Options) (*Node, error) {
	n := &Node{
		Options: o, Socket: filepath.Join(o.Dir, "cri.sock"), NRISocket: filepath.Join(o.Dir, "nri.sock"),
		LogFile: filepath.Join(o.Dir, string(o.Kind)+".log"),
	}
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", o.Kind, err)
	}
	conn, err := grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", o.Kind, err)
	}
	n.conn, n.Runtime, n.Images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	if _, err := n.Run(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return n, nil
}

// Run starts the daemon on what is there, at first or after a Kill, and returns how long it took until its runtime and
// network were ready.
func (n *Node) Run(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", n.Kind, err)
	}
	defer log.Close()
	n.daemon = n.command()
	n.daemon.Stdout, n.daemon.Stderr = log, log
	// Own process group: an interrupt on the terminal is ours, and we end the node in order.
	n.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := time.Now()
	if err := n.daemon.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", n.Kind, err)
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends with the daemon
		n.cause = cmd.Wait()
		close(ended)
	}(n.daemon, n.ended)
	if err := n.ready(ctx); err != nil {
		return 0, fmt.Errorf("start %s: %w (log: %s)", n.Kind, err, n.LogFile)
	}
	return time.Since(begin), nil
}

// ready waits until the daemon says that its runtime and its network are.
func (n *Node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	for {
		n.conn.Connect() // at once, not after the back-off of a refused attempt
		n.conn.ResetConnectBackoff()
		answer, err := n.Runtime.Status(ctx, &cri.StatusRequest{})
		if err == nil {
			if last = notReady(answer); last == nil {
				return nil
			}
		} else {
			last = err
		}
		select {
		case <-n.ended:
			return fmt.Errorf("it ended: %w", errors.Join(n.cause, lastLines(n.LogFile)))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %w", ctx.Err(), last)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func notReady(answer *cri.StatusResponse) error {
	for _, c := range answer.GetStatus().GetConditions() {
		if !c.GetStatus() && (c.GetType() == "RuntimeReady" || c.GetType() == "NetworkReady") {
			return fmt.Errorf("%s is false: %s: %s", c.GetType(), c.GetReason(), c.GetMessage())
		}
	}
	return nil
}

// Kill ends the daemon alone, with SIGKILL.
func (n *Node) Kill() error {
	if err := n.daemon.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", n.Kind, err)
	}
	<-n.ended
	return nil
}

// stopTimeout is how long a daemon may take to end by itself.
const stopTimeout = 30 * time.Second

// Stop removes every pod and image, ends the daemon and then whatever it started that outlives it.
func (n *Node) Stop(ctx context.Context) error {
	errs := []error{n.RemoveAll(ctx), n.conn.Close()}
	if err := n.daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	select {
	case <-n.ended:
	case <-time.After(stopTimeout):
		errs = append(errs, fmt.Errorf("stop %s: still running %s after SIGTERM", n.Kind, stopTimeout), n.daemon.Process.Kill())
		<-n.ended
	}
	return errors.Join(append(errs, n.endMonitor())...)
}

// endMonitor ends cri-shim's monitor, which is meant to outlive the daemon.
func (n *Node) endMonitor() error {
	if n.Kind != CRIShim {
		return nil
	}
	list, err := Descendants()
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.Name != "cri-monitor" {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
			return fmt.Errorf("end cri-monitor %d: %w", p.PID, err)
		}
	}
	return awaitGone(stopTimeout, "cri-monitor")
}

// Wipe runs cri-shim's own wipe, which undoes what a stopped node keeps on purpose: its bridge, its monitor.
func (n *Node) Wipe(ctx context.Context) error {
	if n.Kind != CRIShim {
		return nil
	}
	daemon := n.command()
	out, err := exec.CommandContext(context.WithoutCancel(ctx), daemon.Path, append(daemon.Args[1:], "wipe")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wipe: %w: %s", err, out)
	}
	return nil
}
