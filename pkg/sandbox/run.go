// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// NewPod is a request for a pod.
type NewPod struct {
	Config  *cri.PodSandboxConfig
	Handler string // RuntimeClass handler, "" for the default
}

// Run starts a pod and returns its id once pause runs and the network is
// there. The same request again, at any time, gets the same pod.
func (s *Service) Run(ctx context.Context, in NewPod) (state.PodID, error) {
	name := state.PodName(in.Config)
	return state.Do(ctx, s.Ops, "run "+name, func(ctx context.Context) (state.PodID, error) {
		if err := s.fitsHandler(in); err != nil {
			return "", err
		}
		p, began, err := s.begin(ctx, in)
		if err != nil || !began {
			return p.ID, err
		}
		defer s.starts.begin(p.ID)()
		if err := s.bringUp(ctx, p); err != nil {
			return "", s.abandon(ctx, p.ID, err)
		}
		return p.ID, nil
	})
}

// fitsHandler refuses a handler that there is not, and what the handler's runtime
// cannot give a pod.
func (s *Service) fitsHandler(in NewPod) error {
	h, err := s.Runtime.Handler(in.Handler)
	if err != nil || h.HostNamespaces {
		return err
	}
	if err := oci.NoHostNamespaces(in.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()); err != nil {
		return fmt.Errorf("run pod under runtime handler %q: %w", h.Name, err)
	}
	return nil
}

// begin writes the record of a new pod, or finds the pod a repeated request
// means. What an earlier attempt left half done is torn down first.
func (s *Service) begin(ctx context.Context, in NewPod) (state.Pod, bool, error) {
	labels, err := confine.NewLabels(in.Config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	if err != nil {
		return state.Pod{}, false, err
	}
	id := state.PodID(state.NewID())
	parent := s.cgroupParent(id, in.Config)
	pod := state.Pod{
		ID: id, Handler: in.Handler, Config: in.Config, CreatedAt: time.Now(),
		ProcessLabel: labels.Process, MountLabel: labels.Mount,
		CgroupParent: parent, Cgroup: oci.CgroupsPath(parent, string(id), s.Host.Systemd),
		Overhead: in.Config.GetLinux().GetOverhead(), Resources: in.Config.GetLinux().GetResources(),
	}
	if !hostNetwork(in.Config) {
		pod.NetNS = s.Layout.NetNS(id)
	}
	existing, began, err := s.Store.BeginPod(pod)
	if began {
		return pod, true, nil
	}
	confine.ReleaseLabels(labels)
	if err != nil {
		return pod, false, err
	}
	switch {
	case existing.Phase == state.PodReady && state.SameConfig(existing.Config, in.Config):
		return existing, false, nil
	case existing.Phase == state.PodCreating || existing.Reason == reasonRunFailed:
		state.Stage(ctx, "clean up an earlier attempt at this pod")
		if err := s.undoOnce(ctx, existing.ID); err != nil {
			return existing, false, fmt.Errorf("clean up an earlier attempt at this pod: %w", err)
		}
		return s.begin(ctx, in)
	}
	return existing, false, fmt.Errorf("a sandbox with this name, uid and attempt already exists (id %s, phase %s): %w", existing.ID, existing.Phase, errdefs.ErrAlreadyExists)
}

// bringUp is everything between the record and the Ready pod.
func (s *Service) bringUp(ctx context.Context, p state.Pod) error {
	var up started
	var spec *specs.Spec
	return state.Steps(ctx,
		// First, for it refuses pods of which nothing needs to be made then.
		state.Step{Name: "build spec of pause", Do: func(context.Context) (err error) {
			spec, err = s.pauseSpec(p)
			return err
		}},
		state.Step{Name: "make log directory", Do: func(ctx context.Context) error { return s.makeLogDir(ctx, p.Config) }},
		state.Step{Name: "write pod files", Do: func(ctx context.Context) error { return s.makeFiles(ctx, p) }},
		state.Step{Name: "make namespaces", Do: func(context.Context) error { return s.makeNamespaces(p) }},
		state.Step{Name: "set up network and run pause", Do: func(ctx context.Context) (err error) {
			up, err = s.networkAndPause(ctx, p, spec)
			return err
		}},
		state.Step{Name: "write hosts file", Do: func(context.Context) error { return s.writeHosts(p, up.ips) }},
		state.Step{Name: "record pod", Do: func(ctx context.Context) error {
			p.PausePID, p.IPs = up.pid, up.ips
			return s.Plugins.RunPodSandbox(ctx, nriview.Pod(p), func() error { return s.commit(ctx, p) })
		}},
	)
}

// commit makes the pod ready and visible, unless its pause has ended. It looks
// again afterwards: of Died, which looks at the phase after it has told the run,
// and commit one at least sees what the other did.
func (s *Service) commit(ctx context.Context, up state.Pod) error {
	if err := s.starts.pauseRuns(up.ID); err != nil {
		return err
	}
	trace := state.Trace(ctx)
	_, err := s.Store.MovePod(up.ID, state.PodUp, func(p *state.Pod) {
		p.PausePID, p.IPs, p.Trace = up.PausePID, up.IPs, trace
	})
	if err != nil {
		return err
	}
	return s.starts.pauseRuns(up.ID)
}

// started is what a pod has once it is up.
type started struct {
	ips []string
	pid int
}

// makeNamespaces pins the pod's network namespace, owned by the pod's user
// namespace where it has one. Host-network pods need neither.
func (s *Service) makeNamespaces(p state.Pod) error {
	if p.NetNS == "" {
		return nil
	}
	uids, gids := oci.IDMappings(p.Config)
	if len(uids) == 0 {
		return netns.New(p.NetNS)
	}
	return netns.NewWithUser(s.Layout.UserNS(p.ID), p.NetNS, uids, gids)
}

// networkAndPause runs CNI ADD and pause side by side: both need only the
// network namespace, but for runtimes that take what CNI ADD made in there.
func (s *Service) networkAndPause(ctx context.Context, p state.Pod, spec *specs.Spec) (started, error) {
	h, err := s.Runtime.Handler(p.Handler)
	if err != nil {
		return started{}, err
	}
	var up started
	var spans [2]state.Span
	g, gctx := errgroup.WithContext(ctx)
	networked := make(chan error, 1)
	g.Go(func() (err error) {
		defer func() { networked <- err }()
		began := time.Now()
		defer func() { spans[0] = state.Span{Step: "network", Took: time.Since(began)} }()
		if p.NetNS == "" {
			return nil
		}
		result, err := s.Network.Add(gctx, s.attachment(p))
		if err != nil {
			return err
		}
		up.ips = result.IPs
		return state.Point(ctx, "network is attached")
	})
	g.Go(func() (err error) {
		if h.NetworkFirst {
			if err := <-networked; err != nil {
				return err
			}
		}
		began := time.Now()
		defer func() { spans[1] = state.Span{Step: "pause", Took: time.Since(began)} }()
		// Not gctx: a network that fails must not leave a launch under way that
		// the teardown would overtake.
		if up.pid, err = s.runPause(ctx, p, spec); err != nil {
			return err
		}
		return state.Point(ctx, "pause runs")
	})
	err = g.Wait()
	state.AddSpans(ctx, spans[:]...)
	return up, err
}

// pauseSpec is the spec of the pod's infra container. It names the namespaces that makeNamespaces makes.
func (s *Service) pauseSpec(p state.Pod) (*specs.Spec, error) {
	handler, err := s.Runtime.Handler(p.Handler)
	if err != nil {
		return nil, err
	}
	ns := oci.Namespaces{Network: p.NetNS}
	if uids, _ := oci.IDMappings(p.Config); len(uids) > 0 && p.NetNS != "" {
		ns.User = s.Layout.UserNS(p.ID)
	}
	shm := s.Layout.PodShm(p.ID)
	if p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == cri.NamespaceMode_NODE {
		shm = ""
	}
	return oci.Pause(oci.PauseInput{
		ID: string(p.ID), Config: p.Config, Host: s.Host, Lookup: s.Lookup, PodAnnotations: handler.PodAnnotations, OCIVersion: handler.OCIVersion, ShmPath: shm,
		RootFS: s.Layout.PauseRootFS(), CgroupsPath: p.Cgroup,
		Labels:     confine.Labels{Process: p.ProcessLabel, Mount: p.MountLabel},
		Namespaces: ns,
	})
}

// runPause starts the pod's infra container.
func (s *Service) runPause(ctx context.Context, p state.Pod, spec *specs.Spec) (int, error) {
	if err := s.Runtime.WriteBundle(string(p.ID), spec); err != nil {
		return 0, err
	}
	launched, err := s.Runtime.Launch(ctx, runc.Launch{
		Handler: p.Handler, ID: string(p.ID), Cgroups: cgroup.Dirs(p.Cgroup),
	})
	if err != nil {
		return 0, fmt.Errorf("run pause: %w", err)
	}
	s.starts.change(p.ID, func(p *pause) { p.pid = launched.Pid })
	return launched.Pid, nil
}

const reasonRunFailed = "RunFailed"

// abandon undoes a run that did not work. If even that fails, the pod stays
// visible as NotReady, so that the kubelet's Stop and Remove repeat it.
func (s *Service) abandon(ctx context.Context, id state.PodID, cause error) error {
	ctx, cancel := state.Cleanup(ctx)
	defer cancel()
	err := fmt.Errorf("run pod %s: %w", id, cause)
	if cleanup := s.teardown(ctx, id); cleanup != nil {
		_, move := s.Store.MovePod(id, state.PodDown, func(p *state.Pod) {
			p.Reason, p.Message = reasonRunFailed, cause.Error()
		})
		return errors.Join(err, cleanup, move)
	}
	return err
}

// attachment is what CNI is told of a pod.
func (s *Service) attachment(p state.Pod) network.Attachment {
	m := p.Config.GetMetadata()
	return network.Attachment{
		PodID: string(p.ID), Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid(),
		NetNS: p.NetNS, CgroupPath: p.Config.GetLinux().GetCgroupParent(),
		PortMappings: p.Config.GetPortMappings(), DNS: p.Config.GetDnsConfig(),
		Annotations: p.Config.GetAnnotations(),
	}
}

func hostNetwork(c *cri.PodSandboxConfig) bool {
	return c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == cri.NamespaceMode_NODE
}

// cgroupParent is where the kubelet wants the pod, or a cgroup of our own that
// goes with the pod. systemd has no such place without a unit: its pods are in
// system.slice.
func (s *Service) cgroupParent(id state.PodID, c *cri.PodSandboxConfig) string {
	if parent := c.GetLinux().GetCgroupParent(); parent != "" || s.Host.Systemd {
		return parent
	}
	return "/cri-" + string(id)
}
