// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/cri-shim/cri-shim/pkg/nri"
)

// TestMain is a plugin when the runtime started it as one.
func TestMain(m *testing.M) {
	if os.Getenv(api.PluginSocketEnvVar) == "" {
		os.Exit(m.Run())
	}
	s, err := stub.New(&launched{})
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// launched puts its configuration into every container's environment.
type launched struct{ config string }

func (p *launched) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	p.config = config
	return 0, nil
}

func (p *launched) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("CONFIG", p.config)
	return a, nil, nil
}

func TestLaunchedPlugin(t *testing.T) {
	plugins, configs := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(plugins, "05-launched")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(configs, "launched.conf"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, func(o *nri.Options) { o.PluginDir, o.PluginConfigDir = plugins, configs })
	spec := testSpec()
	if _, err := r.CreateContainer(t.Context(), testPod(), testContainer(), spec, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := spec.Process.Env[len(spec.Process.Env)-1]; got != "CONFIG=hello" {
		t.Errorf("the plugin left %q", got)
	}
}
