// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet asks of a crowded node, and what that costs. The samples' names are those of the calls.
const (
	statsCall = "ListPodSandboxStats, 100 pods"
	statsCPU  = "CPU ms per ListPodSandboxStats, 100 pods"

	crowdPods       = 100 // with one running container each
	crowdContainers = 500 // created and not started, over the first of the pods
	crowdHosts      = 25
	crowdTime       = 12 * time.Second
	crowdPause      = 10 * time.Millisecond // between the kubelet's questions
	statsCalls      = 20
)

// The same calls, on a node where nothing else happens and while pods come and go.
const (
	quietly = ", quiet"
	busily  = ", busy"
)

var crowdCalls = []string{"ListPodSandbox", "ListContainers", "ContainerStatus", "PodSandboxStatus"}

// crowd measures reading calls on a node with 100 pods and 600 containers: statistics while it is idle, lists and
// statuses while other pods come and go.
func (b *bench) crowd(ctx context.Context) error {
	b.say(fmt.Sprintf("%d pods and %d more containers", crowdPods, crowdContainers))
	pods := make([]*pod, crowdPods)
	if err := b.each(ctx, crowdPods, func(ctx context.Context, i int, c *cri.PodSandboxConfig) (err error) {
		pods[i], err = b.up(ctx, c)
		return err
	}); err != nil {
		return err
	}
	if err := b.statistics(ctx); err != nil {
		return err
	}
	if err := b.each(ctx, crowdContainers, func(ctx context.Context, i int, _ *cri.PodSandboxConfig) error {
		p := pods[i%crowdHosts]
		_, err := b.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: fmt.Sprintf("more-%d", i)}, Image: &cri.ImageSpec{Image: imageName}, Linux: &cri.LinuxContainerConfig{},
		}})
		return err
	}); err != nil {
		return err
	}
	if err := b.busy(ctx, pods); err != nil {
		return err
	}
	return b.each(ctx, crowdPods, func(ctx context.Context, i int, _ *cri.PodSandboxConfig) error { return b.down(ctx, pods[i]) })
}

// each runs n jobs, some at a time.
func (b *bench) each(ctx context.Context, n int, job func(context.Context, int, *cri.PodSandboxConfig) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.options.parallel)
	for i := range n {
		config := b.next()
		g.Go(func() error { return job(ctx, i, config) })
	}
	return g.Wait()
}

// statistics asks for all pods' as the kubelet does for its summary, and counts what that takes of the processors.
func (b *bench) statistics(ctx context.Context) error {
	ask := func() error {
		r, err := b.Runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
		if err == nil && len(r.GetStats()) != crowdPods {
			err = fmt.Errorf("statistics of %d pods, not %d", len(r.GetStats()), crowdPods)
		}
		return err
	}
	if err := ask(); err != nil { // the first finds everything new
		// A runtime that can't say is shown without a figure: its other figures stand.
		fmt.Fprintf(os.Stderr, "%s: statistics of %d pods not measured: %.200s\n", b.Kind, crowdPods, err)
		return nil
	}
	before, err := cpuTime()
	if err != nil {
		return err
	}
	for range statsCalls {
		begin := time.Now()
		if err := ask(); err != nil {
			return err
		}
		b.result.keep(statsCall, time.Since(begin))
	}
	after, err := cpuTime()
	b.result.Values[statsCPU] = float64((after - before).Milliseconds()) / statsCalls
	return err
}

// cpuTime is what every process of the node has used of the processors so far.
func cpuTime() (time.Duration, error) {
	list, err := node.Descendants()
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, p := range list {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil {
			continue // it ended in between
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, f := range fields[11:13] { // of user and system time
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read processor time of %s: %w", p, err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // 100 ticks a second on every architecture that matters
}

// busy asks what a kubelet asks, at first of a quiet node, then while pods come up and go down, one after the other. More
// of those at a time would leave no processor to whoever asks, and the figures would be those of the kernel's scheduler.
func (b *bench) busy(ctx context.Context, pods []*pod) error {
	ctx, cancel := context.WithTimeout(ctx, 2*crowdTime+time.Minute)
	defer cancel()
	if err := b.ask(ctx, pods, quietly); err != nil {
		return err
	}
	stop := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			p, err := b.up(ctx, b.next())
			if err == nil {
				err = b.down(ctx, p)
			}
			if err != nil {
				return err
			}
		}
	})
	err := b.ask(ctx, pods, busily)
	close(stop)
	if churn := g.Wait(); err == nil {
		err = churn
	}
	return err
}

func (b *bench) ask(ctx context.Context, pods []*pod, when string) error {
	over := time.After(crowdTime)
	for i := 0; ; i++ {
		p := pods[i%len(pods)]
		for n, call := range []func() error{
			func() error {
				_, err := b.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
				return err
			},
			func() error {
				_, err := b.Runtime.ListContainers(ctx, &cri.ListContainersRequest{})
				return err
			},
			func() error {
				_, err := b.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: p.container})
				return err
			},
			func() error {
				_, err := b.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
				return err
			},
		} {
			begin := time.Now()
			if err := call(); err != nil {
				return fmt.Errorf("%s%s: %w", crowdCalls[n], when, err)
			}
			b.result.keep(crowdCalls[n]+when, time.Since(begin))
		}
		select {
		case <-over:
			return nil
		case <-time.After(crowdPause):
		}
	}
}
