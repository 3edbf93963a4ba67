// SPDX-License-Identifier: Apache-2.0

// Package harness starts the built daemon for tests: bin/cri-shim with its real
// companions, in directories of its own, with a network of its own, and a look
// at the end for anything it left on the machine.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Daemon is a running cri-shim and a client of it.
type Daemon struct {
	Dir     string // everything of this daemon is below
	Socket  string
	Config  string
	Bridge  string
	Subnet  string // of the pods
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	LogDir  string   // a pod log directory
	Program string   // of the daemon; bin/cri-shim unless a test builds another
	Env     []string // of the daemon, besides the test's own

	conn   *grpc.ClientConn
	sliced bool // pods were given slices
	cmd    *exec.Cmd
	done   chan error
}

// Root is the module's root directory.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	panic("not inside the module")
}

// Bin is the path of a built program.
func Bin(name string) string { return filepath.Join(Root(), "bin", name) }

// Require skips the test, saying why, where the machine cannot run it.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: starts real containers")
	}
	for _, name := range []string{"cri-shim", "cri-monitor", "runc", "cni/bridge"} {
		if _, err := os.Stat(Bin(name)); err != nil {
			t.Fatalf("bin/%s is missing: run make build", name)
		}
	}
}

// Start runs a daemon for the length of the test. extra is appended to its
// configuration.
func Start(t testing.TB, extra ...string) *Daemon {
	t.Helper()
	Require(t)
	d, err := New(extra...)
	if err != nil {
		t.Fatal(err)
	}
	d.StartFor(t)
	if strings.Contains(strings.Join(extra, ""), "preload_dir") {
		Eventually(t, 20*time.Second, "images are preloaded", func() bool {
			r, err := d.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: TestImage}})
			return err == nil && r.Image != nil
		})
	}
	return d
}

// StartFor is Start for a daemon whose directories a test has prepared.
func (d *Daemon) StartFor(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("daemon log:\n%s", d.Log())
		}
		if err := d.Destroy(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
}

// New prepares directories and configuration and starts nothing. $CRI_TEST_CONFIG,
// if set, is configuration of every daemon: the cgroup driver, say.
func New(extra ...string) (*Daemon, error) {
	dir, err := os.MkdirTemp("", "cri-it-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // users of user namespaces go through it
		return nil, err
	}
	name := strings.TrimPrefix(filepath.Base(dir), "cri-it-")
	name = name[:min(len(name), 6)]
	d := &Daemon{
		Dir: dir, Socket: filepath.Join(dir, "cri.sock"), Config: filepath.Join(dir, "config.toml"),
		Bridge: "cri-" + name, Subnet: subnet(), LogDir: filepath.Join(dir, "logs"), Program: Bin("cri-shim"),
	}
	config := fmt.Sprintf(`listen = %q
root = %q
state = %q
log_level = "debug"
%s
[cni]
conf_dir = %q
default_network = true
bridge = %q
subnets = [%q]

[registry]
config_path = %q

[nri]
enable = false
socket = %q
`, d.Socket, filepath.Join(dir, "root"), filepath.Join(dir, "state"), strings.Join(append(extra, os.Getenv("CRI_TEST_CONFIG")), "\n"),
		filepath.Join(dir, "cni"), d.Bridge, d.Subnet, filepath.Join(dir, "certs.d"), filepath.Join(dir, "nri.sock"))
	err = errors.Join(os.MkdirAll(d.LogDir, 0o755), os.WriteFile(d.Config, []byte(config), 0o600))
	return d, err
}

// subnet is one that hardly another daemon has: of those that a daemon picks by
// itself there are five, and tests run side by side.
func subnet() string {
	return fmt.Sprintf("10.%d.%d.0/24", 130+rand.IntN(60), rand.IntN(256))
}

// Up starts the daemon and waits until it serves.
func (d *Daemon) Up(ctx context.Context) error {
	log, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.Program, "--config", d.Config)
	d.cmd.Env = append(os.Environ(), d.Env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	cmd, done := d.cmd, make(chan error, 1)
	d.done = done
	go func() { done <- cmd.Wait() }()
	if d.conn == nil {
		d.conn, err = grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			return err
		}
		d.Runtime, d.Images = cri.NewRuntimeServiceClient(d.conn), cri.NewImageServiceClient(d.conn)
	}
	return d.awaitReady(ctx)
}

// awaitReady returns when the daemon lists, or with its own last words.
func (d *Daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience(20*time.Second))
	defer cancel()
	d.conn.ResetConnectBackoff()
	for {
		_, err := d.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err == nil {
			return nil
		}
		select {
		case ended := <-d.done:
			d.done <- ended
			return fmt.Errorf("daemon ended: %v", ended)
		case <-ctx.Done():
			return fmt.Errorf("daemon does not serve: %w", err)
		case <-time.After(5 * time.Millisecond):
			d.conn.ResetConnectBackoff()
		}
	}
}

// AwaitRecovered returns when the daemon that was started last has undone what
// the one before it left half done.
func (d *Daemon) AwaitRecovered(t testing.TB) {
	t.Helper()
	Eventually(t, 20*time.Second, "recovery is complete", func() bool {
		log := d.Log()
		return strings.LastIndex(log, "recovery is complete") > strings.LastIndex(log, "records are recovered")
	})
}

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	<-d.done
	return nil
}

// AwaitEnd waits until the daemon has ended by itself.
func (d *Daemon) AwaitEnd(limit time.Duration) error {
	select {
	case err := <-d.done:
		d.done <- err
		return nil
	case <-time.After(limit):
		return fmt.Errorf("daemon still runs after %s", limit)
	}
}

// Stop ends the daemon orderly; pods run on.
func (d *Daemon) Stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-d.done:
		return err
	case <-time.After(patience(20 * time.Second)):
		return errors.New("daemon does not stop")
	}
}

// Wipe removes everything the daemon made on the machine. The daemon must not run.
func (d *Daemon) Wipe() error {
	out, err := exec.Command(Bin("cri-shim"), "--config", d.Config, "wipe").CombinedOutput()
	if err != nil {
		return fmt.Errorf("wipe: %w\n%s", err, out)
	}
	return nil
}

// Destroy stops and wipes the daemon, reports what is left on the machine, and
// removes the directory.
func (d *Daemon) Destroy() error {
	var errs []error
	if d.cmd != nil && d.cmd.ProcessState == nil {
		if err := d.Stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err, d.cmd.Process.Kill())
		}
	}
	if d.conn != nil {
		d.conn.Close()
	}
	errs = append(errs, d.Wipe(), d.Leaks(), d.removeSlices())
	if errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(d.Dir))
	}
	return errors.Join(errs...)
}

func (d *Daemon) logFile() string { return filepath.Join(d.Dir, "daemon.log") }

// Log is what the daemon and its monitor said so far.
func (d *Daemon) Log() string {
	var b bytes.Buffer
	for _, path := range []string{d.logFile(), filepath.Join(d.Dir, "state", "monitor.log")} {
		data, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "== %s\n%s", path, data)
	}
	return b.String()
}
