// SPDX-License-Identifier: Apache-2.0

// Package node drives a CRI runtime in a place of its own and says what it leaves there: ours, or one it is compared with,
// each with the same runc, the same CNI plugins and configuration and the same registry. Every test and program that
// starts a daemon does so here; package nodetest has the form of it for tests.
//
// Everything a node writes lies below one short folder (socket paths have 107 bytes). With Isolate the whole program
// lives in mount and network namespaces of its own, so that a run can neither disturb the machine nor meet another run.
// A Snapshot is what the machine holds of a node; two of them, compared, are what it left. The driver does not judge what
// the runtime answers.
package node

import (
	"bytes"
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
	Bin      string // our programs, runc, cni/: see Programs
	Registry string // host:port of a registry that stands for the well-known ones; "" for none
	Hosts    string // its tree of hosts.toml files
	NRI      bool
	Network  Network
	Preload  string // cri-shim only: folder of images to import at start
	LogLevel string // "" for the runtime's default
	Text     string // cri-shim only: a configuration to use instead of one made of all this
	More     string // cri-shim only: what its configuration has besides

	// Inside is a process: the node lives in its mount, network and UTS namespaces. 0 is for our own.
	Inside int

	// Alone says that nothing but the node is in this process's mount and network namespaces: then all that appears in
	// them is the node's, whatever its name.
	Alone bool
}

// Network is how the node's pods get theirs.
type Network struct {
	Bridge  string
	Subnet  string // for the CNI configuration that is written
	Default bool   // cri-shim only: write none, let it bring its own network
}

// Node is a CRI runtime and a client of it.
type Node struct {
	Options
	Socket    string
	NRISocket string
	Config    string // the file
	LogFile   string
	Metrics   string // address of the daemon's metrics, "" for none
	Program   string // the daemon's, if not that of the kind
	Env       []string
	Runtime   cri.RuntimeServiceClient
	Images    cri.ImageServiceClient

	conn   *grpc.ClientConn
	before Snapshot // of the machine, before the node did anything
	daemon *exec.Cmd
	ended  chan struct{}
	cause  error
}

// startTimeout is how long a daemon may take until it answers, and until it is ready.
const startTimeout = 60 * time.Second

// Start starts a node and waits until its runtime and network are ready.
func Start(ctx context.Context, o Options) (*Node, error) {
	n, err := New(o)
	if err != nil {
		return nil, err
	}
	return n, errors.Join(n.Up(ctx), n.AwaitReady(ctx))
}

// New writes the node's configuration and starts nothing.
func New(o Options) (*Node, error) {
	n := &Node{
		Options: o, Socket: filepath.Join(o.Dir, "cri.sock"), NRISocket: filepath.Join(o.Dir, "nri.sock"),
		Config: filepath.Join(o.Dir, "config.toml"), LogFile: filepath.Join(o.Dir, string(o.Kind)+".log"),
	}
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", o.Kind, err)
	}
	conn, err := grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", o.Kind, err)
	}
	n.conn, n.Runtime, n.Images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	n.before, err = n.Snapshot()
	return n, err
}

// Up starts the daemon on what is there, at first or after it ended, and waits until it answers.
func (n *Node) Up(ctx context.Context) error {
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Kind, err)
	}
	defer log.Close()
	n.daemon = n.command()
	n.daemon.Stdout, n.daemon.Stderr = log, log
	// Own process group: an interrupt on the terminal is ours, and we end the node in order.
	n.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.daemon.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Kind, err)
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends with the daemon
		n.cause = cmd.Wait()
		close(ended)
	}(n.daemon, n.ended)
	err = n.poll(ctx, func(ctx context.Context) error {
		_, err := n.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		return err
	})
	if err != nil {
		return fmt.Errorf("start %s: %w (log: %s)", n.Kind, err, n.LogFile)
	}
	return nil
}

// AwaitReady waits until the daemon says that its runtime and its network are ready.
func (n *Node) AwaitReady(ctx context.Context) error {
	err := n.poll(ctx, func(ctx context.Context) error {
		answer, err := n.Runtime.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			return err
		}
		return notReady(answer)
	})
	if err != nil {
		return fmt.Errorf("await %s: %w (log: %s)", n.Kind, err, n.LogFile)
	}
	return nil
}

// poll asks until ok is content, the daemon has ended or the time is over.
func (n *Node) poll(ctx context.Context, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience(startTimeout))
	defer cancel()
	for {
		n.conn.Connect() // at once, not after the back-off of a refused attempt
		n.conn.ResetConnectBackoff()
		last := ok(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("it ended: %w", errors.Join(n.cause, lastLines(n.LogFile)))
		case <-ctx.Done():
			return fmt.Errorf("not after %s: %w", Patience(startTimeout), last)
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

// AwaitEnd waits until the daemon has ended by itself.
func (n *Node) AwaitEnd(limit time.Duration) error {
	select {
	case <-n.ended:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s still runs after %s", n.Kind, limit)
	}
}

// Running tells whether the daemon has been started and has not ended.
func (n *Node) Running() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// stopTimeout is how long a daemon may take to end by itself.
const stopTimeout = 30 * time.Second

// Stop ends the daemon in order; pods run on. It is an error when the daemon says that it failed, or has reported a data race.
func (n *Node) Stop() error {
	if err := n.daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", n.Kind, err)
	}
	if n.AwaitEnd(Patience(stopTimeout)) != nil {
		err := n.Kill()
		return errors.Join(fmt.Errorf("stop %s: still running %s after SIGTERM", n.Kind, stopTimeout), err)
	}
	if n.Kind != CRIShim {
		return n.races() // containerd and CRI-O end with codes of their own
	}
	return errors.Join(n.cause, n.races())
}

// Down removes every pod and image, ends the daemon and whatever it started that outlives it, and fails with what is left.
func (n *Node) Down(ctx context.Context) error {
	removed := n.RemoveAll(ctx)
	if n.Kind == CRIShim { // others remove in the background
		removed = errors.Join(removed, n.Remains())
	}
	return errors.Join(removed, n.Stop(), n.Wipe(ctx), n.Close(), n.Leaks())
}

// Close gives the client's connection up.
func (n *Node) Close() error { return n.conn.Close() }

// PID is the daemon's.
func (n *Node) PID() int { return n.daemon.Process.Pid }

// Wipe runs cri-shim's own wipe, which removes what a stopped node keeps on purpose: its pods, bridge and monitor. The
// daemon must not run. Other runtimes have nothing of the kind.
func (n *Node) Wipe(ctx context.Context) error {
	if n.Kind != CRIShim {
		return nil
	}
	args := n.inside(filepath.Join(n.Bin, string(CRIShim)), "--config", n.Config, "wipe")
	wipe := exec.CommandContext(context.WithoutCancel(ctx), args[0], args[1:]...)
	wipe.Env = append(os.Environ(), n.environment()...)
	out, err := wipe.CombinedOutput()
	if err != nil {
		return fmt.Errorf("wipe: %w: %s", err, out)
	}
	return n.races()
}

// Log is what the daemon and its monitor have said so far.
func (n *Node) Log() string {
	var b bytes.Buffer
	for _, path := range []string{n.LogFile, filepath.Join(n.Dir, "state", "monitor.log")} {
		data, _ := os.ReadFile(path) // not there yet
		fmt.Fprintf(&b, "== %s\n%s", path, data)
	}
	return b.String()
}
