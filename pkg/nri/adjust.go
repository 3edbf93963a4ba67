// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// adjustment is one container's, being made in its spec.
type adjustment struct {
	s    *Service
	spec *specs.Spec
	want *api.ContainerAdjustment
	// after is the container as the last plugin saw it. It is the only place where removals of environment variables
	// and devices show: the library leaves them out of the adjustment.
	after *api.Container
}

// adjust makes what plugins want of a new container in its spec. The library has checked that no two of them want
// different things.
func (s *Service) adjust(spec *specs.Spec, want *api.ContainerAdjustment, after *api.Container) error {
	if want == nil {
		return nil
	}
	if spec.Process == nil || spec.Linux == nil {
		return fmt.Errorf("adjust container: the spec is not of a Linux container: %w", errdefs.ErrInvalidArgument)
	}
	a := &adjustment{s: s, spec: spec, want: want, after: after}
	// CDI comes last: an injected device may edit any part of the spec.
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"annotations", a.annotations},
		{"environment", a.env},
		{"arguments", a.args},
		{"hooks", a.hooks},
		{"rlimits", a.rlimits},
		{"process", a.process},
		{"devices", a.devices},
		{"network devices", a.netDevices},
		{"seccomp", a.seccomp},
		{"namespaces", a.namespaces},
		{"sysctls", a.sysctls},
		{"resources", a.resources},
		{"memory policy", a.memoryPolicy},
		{"mounts", a.mounts},
		{"CDI devices", a.cdi},
	} {
		if err := part.do(); err != nil {
			return fmt.Errorf("adjust %s: %w", part.name, err)
		}
	}
	return nil
}

// edit returns m with removals done and then the rest set: a key may come both ways.
func edit(m, changes map[string]string) map[string]string {
	m = maps.Clone(m)
	if m == nil && len(changes) > 0 {
		m = map[string]string{}
	}
	for key := range changes {
		if name, remove := api.IsMarkedForRemoval(key); remove {
			delete(m, name)
		}
	}
	for key, value := range changes {
		if _, remove := api.IsMarkedForRemoval(key); !remove {
			m[key] = value
		}
	}
	return m
}

func (a *adjustment) annotations() error {
	a.spec.Annotations = edit(a.spec.Annotations, a.want.GetAnnotations())
	return nil
}

// env changes variables where they are, so that the order of the others stays, and appends new ones.
func (a *adjustment) env() error {
	left := map[string]bool{}
	for _, e := range a.after.GetEnv() {
		left[envName(e)] = true
	}
	set := map[string]string{}
	for _, e := range a.want.GetEnv() {
		if _, remove := e.IsMarkedForRemoval(); !remove {
			set[e.GetKey()] = e.ToOCI()
		}
	}
	var env []string
	for _, e := range a.spec.Process.Env {
		name := envName(e)
		if !left[name] {
			continue
		}
		if changed, ok := set[name]; ok {
			e = changed
			delete(set, name)
		}
		env = append(env, e)
	}
	for _, e := range a.want.GetEnv() {
		if added, ok := set[e.GetKey()]; ok {
			env = append(env, added)
			delete(set, e.GetKey())
		}
	}
	a.spec.Process.Env = env
	return nil
}

func envName(variable string) string {
	name, _, _ := strings.Cut(variable, "=")
	return name
}

func (a *adjustment) args() error {
	if len(a.want.GetArgs()) > 0 {
		a.spec.Process.Args = a.want.GetArgs()
	}
	return nil
}

func (a *adjustment) hooks() error {
	h := a.want.GetHooks().Hooks()
	if h == nil {
		return nil
	}
	if a.spec.Hooks == nil {
		a.spec.Hooks = &specs.Hooks{}
	}
	to := a.spec.Hooks
	for _, kind := range []struct {
		to   *[]specs.Hook
		from []*api.Hook
	}{
		{&to.Prestart, h.GetPrestart()}, //nolint:staticcheck // deprecated, and plugins may still ask for it
		{&to.CreateRuntime, h.GetCreateRuntime()},
		{&to.CreateContainer, h.GetCreateContainer()},
		{&to.StartContainer, h.GetStartContainer()},
		{&to.Poststart, h.GetPoststart()},
		{&to.Poststop, h.GetPoststop()},
	} {
		for _, hook := range kind.from {
			if !path.IsAbs(hook.GetPath()) {
				return fmt.Errorf("hook %q is not an absolute path: %w", hook.GetPath(), errdefs.ErrInvalidArgument)
			}
			*kind.to = append(*kind.to, hook.ToOCI())
		}
	}
	return nil
}

// rlimits gives no more than a child of this process may have: the runtime would fail on it.
func (a *adjustment) rlimits() error {
	for _, l := range a.want.GetRlimits() {
		limit := specs.POSIXRlimit{Type: l.GetType(), Hard: l.GetHard(), Soft: l.GetSoft()}
		if !strings.HasPrefix(limit.Type, "RLIMIT_") {
			return fmt.Errorf("%q is not a resource limit: %w", limit.Type, errdefs.ErrInvalidArgument)
		}
		if most, ok := a.s.o.Host.Facts.RlimitMax[limit.Type]; ok {
			limit.Hard = min(limit.Hard, most)
		}
		limit.Soft = min(limit.Soft, limit.Hard)
		of := func(r specs.POSIXRlimit) bool { return r.Type == limit.Type }
		a.spec.Process.Rlimits = append(slices.DeleteFunc(slices.Clone(a.spec.Process.Rlimits), of), limit)
	}
	return nil
}

func (a *adjustment) process() error {
	l := a.want.GetLinux()
	if score := l.GetOomScoreAdj().Get(); score != nil {
		if *score < -1000 || *score > 1000 {
			return fmt.Errorf("oom score adjustment %d is outside -1000-1000: %w", *score, errdefs.ErrInvalidArgument)
		}
		*score = max(*score, a.s.o.Host.Facts.OOMScoreAdjMin)
		a.spec.Process.OOMScoreAdj = score
	}
	if p := l.GetIoPriority().ToOCI(); p != nil {
		a.spec.Process.IOPriority = p
		if p.Class == "" {
			a.spec.Process.IOPriority = nil
		}
	}
	if sch := l.GetScheduler().ToOCI(); sch != nil {
		a.spec.Process.Scheduler = sch
	}
	if p := l.GetCgroupsPath(); p != "" {
		return a.moveCgroup(p)
	}
	return nil
}

// moveCgroup moves the container to another cgroup: in the form that the runtime's cgroup driver takes, and to one
// that is the container's alone. Everything in a container's cgroup is killed at its end.
func (a *adjustment) moveCgroup(to string) error {
	own := a.spec.Linux.CgroupsPath
	if strings.Count(to, ":") == 2 != (strings.Count(own, ":") == 2) || !cgroup.IsOf(to, a.after.GetId()) {
		return fmt.Errorf("cgroups path %q is not of the form of %q, with the container's id in its last element: %w", to, own, errdefs.ErrInvalidArgument)
	}
	a.spec.Linux.CgroupsPath = to
	return nil
}

func (a *adjustment) resources() error {
	l := a.want.GetLinux()
	if err := a.s.resources(a.spec, l.GetResources()); err != nil {
		return err
	}
	rdt := l.GetRdt()
	if rdt.GetRemove() {
		a.spec.Linux.IntelRdt = nil
	}
	if rdt.GetClosId() == nil && rdt.GetSchemata() == nil && rdt.GetEnableMonitoring() == nil {
		return nil
	}
	next := specs.LinuxIntelRdt{}
	if a.spec.Linux.IntelRdt != nil {
		next = *a.spec.Linux.IntelRdt
	}
	if v := rdt.GetClosId(); v != nil {
		next.ClosID = v.GetValue()
	}
	if v := rdt.GetSchemata(); v != nil {
		next.Schemata = v.GetValue()
	}
	if v := rdt.GetEnableMonitoring(); v != nil {
		next.EnableMonitoring = v.GetValue()
	}
	a.spec.Linux.IntelRdt = &next
	return nil
}

func (a *adjustment) cdi() error {
	var names []string
	for _, d := range a.want.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	if len(names) == 0 {
		return nil
	}
	if a.s.o.Host.CDI == nil {
		return fmt.Errorf("no registry of CDI devices: %w", errdefs.ErrNotImplemented)
	}
	if err := a.s.o.Host.CDI(a.spec, names); err != nil {
		return err
	}
	mount.Sort(a.spec.Mounts)
	return nil
}
