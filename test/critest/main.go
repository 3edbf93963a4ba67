// SPDX-License-Identifier: Apache-2.0

// Command critest runs upstream's CRI validation suite against cri-shim, or against a runtime it is compared with.
//
// It makes the images that the suite names, serves them from a registry of its own, starts the runtime in mount and
// network namespaces of its own, runs the suite, prints every failure and every skip with its reason, ends all it
// started and fails on anything that is left. The suite itself, critest, is upstream's binary: $CRITEST or PATH.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/cri-shim/cri-shim/test/critest/images"
	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/registry"
)

type options struct {
	critest   string
	bin       string
	cache     string
	kind      node.Kind
	endpoint  string
	focus     string
	skip      string
	seed      string
	logLevel  string
	logs      string
	config    string
	randomize bool
	websocket bool
	nri       bool
	public    bool
	serve     bool
}

func main() {
	o := options{}
	flag.StringVar((*string)(&o.kind), "runtime", string(node.CRIShim), "runtime to start: cri-shim, containerd or crio")
	flag.StringVar(&o.endpoint, "runtime-endpoint", "", "test the runtime that listens here, and start none")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out specs that match this regular expression")
	flag.StringVar(&o.seed, "seed", "", "order of the specs; they are shuffled anew each time without it")
	flag.StringVar(&o.logLevel, "log-level", "", "of the runtime")
	flag.StringVar(&o.logs, "logs", "", "folder for the suite's output and report and the runtime's log; .cache/critest/logs/TIME if empty")
	flag.StringVar(&o.config, "config", "", "file of what cri-shim's configuration has besides, as another runtime handler")
	flag.BoolVar(&o.randomize, "randomize", false, "shuffle all specs, not only the groups they are in")
	flag.BoolVar(&o.websocket, "websocket", false, "stream over WebSocket, not SPDY")
	flag.BoolVar(&o.nri, "nri", true, "run the NRI specs")
	flag.BoolVar(&o.public, "public-images", false, "pull the real images from the public registries")
	flag.BoolVar(&o.serve, "serve", false, "only serve the images and print how to use them, until interrupted")
	flag.Parse()
	code, err := o.main()
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func (o *options) main() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.resolve(ctx); err != nil {
		return 1, err
	}
	switch {
	case o.serve:
		return 0, o.serveImages(ctx)
	case o.endpoint != "":
		return o.run(ctx, o.endpoint, "")
	}
	if !o.public { // real images need the real network
		if again, code, err := node.Isolate(); again || err != nil {
			return code, err
		}
	}
	if err := node.Adopt(); err != nil {
		return 1, err
	}
	return o.onNode(ctx)
}

// resolve finds what is needed and fetches what is missing, before anything is started.
func (o *options) resolve(ctx context.Context) (err error) {
	if o.critest = os.Getenv("CRITEST"); o.critest == "" {
		o.critest = "critest"
	}
	if o.critest, err = exec.LookPath(o.critest); err != nil && !o.serve {
		return errors.New("no critest binary: set CRITEST or put it on PATH (it is in the releases of kubernetes-sigs/cri-tools)")
	}
	if os.Geteuid() != 0 {
		return errors.New("must run as root")
	}
	if o.bin, err = node.Programs(); err != nil {
		return err
	}
	if o.cache, err = filepath.Abs(".cache/critest"); err != nil {
		return err
	}
	if o.logs == "" {
		o.logs = filepath.Join(o.cache, "logs", time.Now().Format("20060102-150405"))
	}
	if o.endpoint == "" && !o.serve {
		if _, err := o.kind.Program(o.bin); err != nil {
			return err
		}
	}
	if o.public || o.endpoint != "" {
		return nil
	}
	return images.Fetch(ctx, o.images())
}

func (o *options) images() images.Options {
	return images.Options{
		Cache: o.cache, Pause: "cmd/pause/pause_" + runtime.GOARCH,
		Say: func(format string, args ...any) { fmt.Printf("critest: "+format+"\n", args...) },
	}
}

// onNode runs the suite against a runtime that is started for it and looks for what it left.
func (o *options) onNode(ctx context.Context) (code int, err error) {
	dir, err := os.MkdirTemp("", "cri-critest-")
	if err != nil {
		return 1, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // a user namespace's root goes through
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	n, reg, err := o.start(ctx, dir)
	if reg != nil {
		defer reg.Close()
	}
	if err != nil {
		return 1, err
	}
	code, err = o.run(ctx, "unix://"+n.Socket, n.NRISocket)
	return code, errors.Join(err, n.Down(ctx), keep(o.logs, n.LogFile, filepath.Join(dir, "state", "monitor.log")))
}

func (o *options) start(ctx context.Context, dir string) (*node.Node, *registry.Registry, error) {
	no := node.Options{
		Kind: o.kind, Dir: dir, Bin: o.bin, NRI: o.nri, LogLevel: o.logLevel,
		Network: node.Network{Bridge: "cri-critest", Subnet: "10.111.0.0/16"}, Alone: !o.public,
	}
	if o.config != "" {
		more, err := os.ReadFile(o.config)
		if err != nil {
			return nil, nil, err
		}
		no.More = string(more)
	}
	var reg *registry.Registry
	if !o.public {
		r, err := o.registry(ctx, dir)
		if err != nil {
			return nil, nil, err
		}
		reg, no.Registry, no.Hosts = r, r.URL, filepath.Join(dir, "certs.d")
	}
	n, err := node.Start(ctx, no)
	return n, reg, err
}

// registry builds the images and serves them.
func (o *options) registry(ctx context.Context, dir string) (*registry.Registry, error) {
	list, err := images.Build(o.images())
	if err != nil {
		return nil, err
	}
	r, err := registry.Start(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range list {
		digest, err := img.Push(ctx, r.URL)
		if err != nil {
			return r, err
		}
		if img.Names[0] == images.ByDigest && !o.serve {
			o.checkDigest(digest.Encoded())
		}
	}
	return r, r.WriteHosts(filepath.Join(dir, "certs.d"), images.Registries...)
}

// checkDigest warns when the suite names the image it wants by digest by another one than ours has: that one spec can
// only pass with the image of the public registry, or with a suite that was built for ours.
func (o *options) checkDigest(digest string) {
	if data, err := os.ReadFile(o.critest); err == nil && !bytes.Contains(data, []byte(digest)) {
		fmt.Printf("critest: %s does not name our test-image-digest (sha256:%s); "+
			"\"public image with digest\" can't pass with it here\n", o.critest, digest)
	}
}

func (o *options) serveImages(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "cri-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := o.registry(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Printf("serving on %s; config_path = %q\n", r.URL, filepath.Join(dir, "certs.d"))
	<-ctx.Done()
	return r.Close()
}

// keep copies logs of the node before its folder goes.
func keep(dir string, names ...string) error {
	for _, name := range names {
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
