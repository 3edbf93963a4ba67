// SPDX-License-Identifier: Apache-2.0

// Command bench measures cri-shim and, side by side, each of containerd and CRI-O that it finds ($CONTAINERD, $CRIO or
// PATH): through the CRI, with the same runc, CNI plugins, network, registry and image.
//
// Each runtime has the machine to itself while it is measured. Times are those a client sees. Memory is PSS, which counts
// shared pages once. The numbers are only as good as the machine is quiet; compare ratios, not figures of two machines.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	"github.com/cri-shim/cri-shim/test/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

type options struct {
	cycles   int
	pods     int
	parallel int
	settle   time.Duration
	only     string
	out      string
	bin      string
}

func main() {
	o := options{}
	flag.IntVar(&o.cycles, "cycles", 30, "pods brought up and down one after the other")
	flag.IntVar(&o.pods, "pods", 60, "pods brought up and kept, for rates, memory and restarts")
	flag.IntVar(&o.parallel, "parallel", 10, "pods at a time")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "how long a node is left alone before its memory is read")
	flag.StringVar(&o.only, "only", "", "measure only these runtimes, by comma")
	flag.StringVar(&o.out, "json", "", "write the measurements to this file as well")
	flag.Parse()
	code, err := o.main()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func (o *options) main() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("must run as root")
	}
	if again, code, err := node.Isolate(); again || err != nil {
		return code, err
	}
	if err := node.Adopt(); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.bin, err = node.Programs(); err != nil {
		return 1, err
	}
	var results []*result
	for _, kind := range []node.Kind{node.CRIShim, node.Containerd, node.CRIO} {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+string(kind)+",") {
			continue
		}
		if _, err := kind.Program(o.bin); err != nil {
			fmt.Printf("not measured: %v\n", err)
			continue
		}
		r, err := o.measure(ctx, kind)
		if err != nil {
			return 1, fmt.Errorf("measure %s: %w", kind, err)
		}
		results = append(results, r)
	}
	show(results)
	if o.out == "" {
		return 0, nil
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return 1, err
	}
	return 0, os.WriteFile(o.out, data, 0o644)
}

// imageName is what every pod runs: one static program that sleeps.
const imageName = "registry.k8s.io/cri-shim/testbox:1"

// measure starts a node of one kind, measures it and takes it down.
func (o *options) measure(ctx context.Context, kind node.Kind) (r *result, err error) {
	dir, err := os.MkdirTemp("", "cri-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	unmount, err := mountState(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	reg, err := registry.Start(ctx)
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	if err := o.push(ctx, reg); err != nil {
		return nil, err
	}
	certs := filepath.Join(dir, "certs.d")
	if err := reg.WriteHosts(certs, "registry.k8s.io"); err != nil {
		return nil, err
	}
	n, err := node.Start(ctx, node.Options{
		Kind: kind, Dir: dir, Bin: o.bin, Registry: reg.Addr, Hosts: certs, NRI: true,
		Network: node.Network{Bridge: "cri-bench", Subnet: "10.112.0.0/16"}, Alone: true,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Down(ctx)) }()
	b := &bench{Node: n, options: o, result: newResult(kind)}
	return b.result, b.run(ctx)
}

// mountState puts what a runtime keeps under /run where it is on every node: into memory.
func mountState(dir string) (unmount func() error, err error) {
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o711); err != nil {
		return nil, err
	}
	if err := unix.Mount("cri-bench", state, "tmpfs", 0, "mode=0711"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", state, err)
	}
	return func() error { return unix.Unmount(state, unix.MNT_DETACH) }, nil
}

func (o *options) push(ctx context.Context, reg *registry.Registry) error {
	program := func(source string, config ocispec.ImageConfig) ocilayout.Image {
		return ocilayout.Image{Layers: []ocilayout.Layer{{{Path: "main", Mode: 0o755, Source: source}}}, Config: config}
	}
	for ref, image := range map[string]ocilayout.Image{
		"cri-shim/testbox:1": program(filepath.Join(o.bin, "testbox"), ocispec.ImageConfig{Entrypoint: []string{"/main", "sleep"}}),
		"pause:3.9":          program(pauseProgram(), ocispec.ImageConfig{Entrypoint: []string{"/main"}}),
	} {
		if _, err := ocilayout.Push(ctx, reg.URL, ref, image); err != nil {
			return err
		}
	}
	return nil
}
