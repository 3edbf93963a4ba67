// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func pauseProgram() string { return filepath.Join("cmd/pause", "pause_"+runtime.GOARCH) }

// bench measures one node.
type bench struct {
	*node.Node
	options *options
	result  *result
	serial  int
}

// pod is a pod with one running container.
type pod struct {
	id, container string
	config        *cri.PodSandboxConfig
}

func (b *bench) run(ctx context.Context) error {
	b.say("pulling")
	if _, err := b.Pull(ctx, imageName); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{b.warmUp, b.oneByOne, b.execs, b.many, b.crowd} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) say(text string) { fmt.Printf("%s: %s\n", b.Kind, text) }

// timed runs one call and keeps what it took under name.
func (b *bench) timed(name string, call func() error) error {
	begin := time.Now()
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.result.add(name, time.Since(begin))
	return nil
}

// next is the configuration of the next pod: a network of its own, and a port that is named and not mapped to the
// host's, which is how kubelets pass on the ports of most pods.
func (b *bench) next() *cri.PodSandboxConfig {
	b.serial++
	name := fmt.Sprintf("bench-%d", b.serial)
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, Hostname: name,
		PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: 0}},
		Linux:        &cri.LinuxPodSandboxConfig{},
	}
}

func (b *bench) up(ctx context.Context, config *cri.PodSandboxConfig) (*pod, error) {
	p := &pod{config: config}
	err := b.timed("RunPodSandbox", func() error {
		r, err := b.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		p.id = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return nil, err
	}
	err = b.timed("CreateContainer", func() error {
		r, err := b.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: config, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: imageName}, Linux: &cri.LinuxContainerConfig{},
		}})
		p.container = r.GetContainerId()
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, b.timed("StartContainer", func() error {
		_, err := b.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: p.container})
		return err
	})
}

// down is what the kubelet does with a pod that goes. The program ends at TERM.
func (b *bench) down(ctx context.Context, p *pod) error {
	for _, c := range []struct {
		name string
		call func() error
	}{
		{"StopContainer", func() error {
			_, err := b.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: p.container, Timeout: 30})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := b.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := b.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: p.container})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := b.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
			return err
		}},
	} {
		if err := b.timed(c.name, c.call); err != nil {
			return err
		}
	}
	return nil
}

const warmUps = 3

func (b *bench) warmUp(ctx context.Context) error {
	for range warmUps {
		p, err := b.up(ctx, b.next())
		if err != nil {
			return err
		}
		if err := b.down(ctx, p); err != nil {
			return err
		}
	}
	b.result.forget()
	return nil
}

func (b *bench) oneByOne(ctx context.Context) error {
	b.say(fmt.Sprintf("%d pods, one after the other", b.options.cycles))
	for range b.options.cycles {
		var p *pod
		err := b.timed(podUp, func() (err error) { p, err = b.up(ctx, b.next()); return err })
		if err != nil {
			return err
		}
		if err := b.timed(podDown, func() error { return b.down(ctx, p) }); err != nil {
			return err
		}
	}
	b.result.freeze() // what follows is concurrent, and its calls' times are another matter
	return nil
}

func (b *bench) execs(ctx context.Context) error {
	p, err := b.up(ctx, b.next())
	if err != nil {
		return err
	}
	for i := range b.options.cycles + warmUps {
		begin := time.Now()
		r, err := b.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/main", "exit", "0"}, Timeout: 30})
		if err != nil || r.GetExitCode() != 0 {
			return fmt.Errorf("ExecSync: exit code %d: %w", r.GetExitCode(), err)
		}
		if i >= warmUps {
			b.result.keep(execSync, time.Since(begin))
		}
	}
	return b.down(ctx, p)
}

// many brings pods up in parallel and measures a node that holds them.
func (b *bench) many(ctx context.Context) error {
	b.say(fmt.Sprintf("%d pods, %d at a time", b.options.pods, b.options.parallel))
	quiet, err := b.settle()
	if err != nil {
		return err
	}
	pods := make([]*pod, b.options.pods)
	rate, err := b.parallel(ctx, func(ctx context.Context, i int, config *cri.PodSandboxConfig) (err error) {
		pods[i], err = b.up(ctx, config)
		return err
	})
	if err != nil {
		return err
	}
	b.result.Values[podsUp] = rate
	full, err := b.settle()
	if err != nil {
		return err
	}
	if err := b.weigh(quiet, full); err != nil {
		return err
	}
	if err := b.restart(ctx); err != nil {
		return err
	}
	rate, err = b.parallel(ctx, func(ctx context.Context, i int, _ *cri.PodSandboxConfig) error { return b.down(ctx, pods[i]) })
	b.result.Values[podsDown] = rate
	return err
}

// parallel runs one job per pod, some at a time, and returns how many it did in a second.
func (b *bench) parallel(ctx context.Context, job func(context.Context, int, *cri.PodSandboxConfig) error) (float64, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.options.parallel)
	begin := time.Now()
	for i := range b.options.pods {
		config := b.next()
		g.Go(func() error { return job(ctx, i, config) })
	}
	err := g.Wait()
	return float64(b.options.pods) / time.Since(begin).Seconds(), err
}

func (b *bench) settle() (map[string]int64, error) {
	time.Sleep(b.options.settle)
	return node.Memory()
}

// watched is how long an idle node is watched.
const watched = 10 * time.Second

// weigh records memory per pod, by program, and how often the idle node wakes up.
func (b *bench) weigh(quiet, full map[string]int64) error {
	var more int64
	for name, now := range full {
		grown := now - quiet[name]
		more += grown
		b.result.Memory[name] = [2]int64{quiet[name], grown / int64(b.options.pods)}
	}
	b.result.Values[perPod] = float64(more) / float64(b.options.pods) / 1024
	before, err := node.Wakeups()
	if err != nil {
		return err
	}
	time.Sleep(watched)
	after, err := node.Wakeups()
	b.result.Values[wakeups] = float64(after-before) / watched.Seconds()
	return err
}

// restart kills the daemon and measures until it serves again with every pod in its list.
func (b *bench) restart(ctx context.Context) error {
	const times = 3
	for range times {
		if err := b.Kill(); err != nil {
			return err
		}
		begin := time.Now()
		if err := errors.Join(b.Up(ctx), b.AwaitReady(ctx)); err != nil {
			return err
		}
		list, err := b.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
			Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
		})
		if err != nil {
			return err
		}
		if len(list.GetItems()) != b.options.pods {
			return fmt.Errorf("after a restart %d pods are ready, not %d", len(list.GetItems()), b.options.pods)
		}
		b.result.keep(back, time.Since(begin))
	}
	return nil
}
