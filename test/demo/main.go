// SPDX-License-Identifier: Apache-2.0

// Command demo shows cri-shim at work: a node is started with a network of its own and an image from a folder, runs one
// pod of two containers, and is taken down again; each step is printed with what it took, and at the end what is left
// on the machine, which is nothing.
//
// It runs in mount and network namespaces of its own; with --host on the machine itself, and with --keep it waits before
// taking things down, so that crictl and curl can have a look.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const imageName = "cri-shim.example/web:1"

func main() {
	host := flag.Bool("host", false, "run on the machine itself, not in namespaces")
	keep := flag.Bool("keep", false, "wait for Enter before taking everything down")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: must run as root: it starts real containers")
		os.Exit(1)
	}
	if !*host {
		again, code, err := node.Isolate()
		if again && err == nil {
			os.Exit(code)
		}
		exitOn(err)
	}
	exitOn(node.Adopt())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *host, *keep)
	stop()
	exitOn(err)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run prepares a folder, shows the pod in it and checks that nothing stays behind.
func run(ctx context.Context, host, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "cri-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := node.Programs()
	if err != nil {
		return err
	}
	if err := step("image built from examples/web", func() (string, error) { return "", writeImage(ctx, dir) }); err != nil {
		return err
	}
	var n *node.Node
	err = step("node up: daemon and monitor", func() (string, error) {
		n, err = node.Start(ctx, node.Options{
			Kind: node.CRIShim, Dir: dir, Bin: bin, Preload: filepath.Join(dir, "preload"),
			Network: node.Network{Default: true, Bridge: "cri-demo"}, Alone: !host,
		})
		return "", err
	})
	if err != nil {
		return err
	}
	shown := show(ctx, n, keep)
	down := step("node down", func() (string, error) { return "", n.Down(ctx) })
	if err := errors.Join(shown, down); err != nil {
		return fmt.Errorf("%w (the daemon's log:\n%s)", err, logOf(n))
	}
	fmt.Println("\nLeft on the machine: no process, mount, cgroup, network namespace, interface, packet filter rule or file.")
	return nil
}

// writeImage builds the web server and writes its image as an OCI layout, for the daemon to import.
func writeImage(ctx context.Context, dir string) error {
	program := filepath.Join(dir, "web")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./examples/web")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/web: %w: %s", err, out)
	}
	_, err := ocilayout.Write(filepath.Join(dir, "preload", "web"), imageName, ocilayout.Image{
		Layers: []ocilayout.Layer{{{Path: "web", Mode: 0o755, Source: program}}},
		Config: ocispec.ImageConfig{Entrypoint: []string{"/web"}, User: "65534:65534"},
	})
	return err
}

// step runs one step and prints how long it took. The step may say a few words more.
func step(name string, do func() (string, error)) error {
	begin := time.Now()
	more, err := do()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Printf("%8.1f ms  %-44s %s\n", float64(time.Since(begin).Microseconds())/1000, name, more)
	return nil
}

func logOf(n *node.Node) []byte {
	data, _ := os.ReadFile(n.LogFile)
	return data[max(0, len(data)-4096):]
}
