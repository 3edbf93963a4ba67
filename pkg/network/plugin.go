// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// pluginExec runs plugins for libcni. It is here because libcni's own kills only the plugin itself, and then waits for
// whatever child still holds its output.
type pluginExec struct {
	version.PluginDecoder
	log   *slog.Logger
	lock  *program.Lock      // of the attachment; nil for what works on none, and dies with this process
	note  func(soFar []byte) // called with the result of the plugins before, for each plugin of an ADD but the first
	soFar []byte             // the result for plugins of a DEL that libcni has none for
}

var _ invoke.Exec = (*pluginExec)(nil)

// An installer may still be writing the plugin: then starting it says "text file busy" for a while.
const (
	busyTries = 10
	busyPause = 100 * time.Millisecond
)

// ExecPlugin runs one plugin command. An error names plugin and command, and is of class ErrUnavailable where the plugin
// says that it may work later.
func (p *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	start, stage := time.Now(), filepath.Base(path)+" "+command(env)
	stdin, err := p.previous(command(env), stdin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stage, err)
	}
	out, err := p.start(ctx, program.Command{Path: path, Env: env, Stdin: stdin, Lock: p.lock})
	took := time.Since(start).Round(time.Millisecond)
	if len(out.Stderr) > 0 {
		p.log.Debug("cni plugin output", "plugin", stage, "stderr", string(out.Stderr))
	}
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s killed after %s: %w", stage, took, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", stage, err)
	case out.Code == 0:
		p.log.Debug("cni plugin done", "plugin", stage, "dur", took)
		return out.Stdout, nil
	}
	return nil, pluginError(stage, out)
}

// previous keeps the result of the plugins before, or supplies it.
func (p *pluginExec) previous(command string, stdin []byte) ([]byte, error) {
	adds, dels := command == "ADD" && p.note != nil, command == "DEL" && p.soFar != nil
	if !adds && !dels {
		return stdin, nil
	}
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	result, there := conf["prevResult"]
	switch {
	case adds && there:
		p.note(result)
	case dels && !there:
		conf["prevResult"] = p.soFar
		return json.Marshal(conf)
	}
	return stdin, nil
}

func (p *pluginExec) start(ctx context.Context, c program.Command) (program.Result, error) {
	for try := 1; ; try++ {
		out, err := c.Run(ctx)
		if !program.IsTextBusy(err) || try == busyTries {
			return out, err
		}
		select { // the kernel has no event for the last writer's close
		case <-ctx.Done():
			return out, context.Cause(ctx)
		case <-time.After(busyPause):
		}
	}
}

// FindInPath finds the plugin's executable.
func (p *pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err != nil {
		return "", fmt.Errorf("CNI plugin %q is not in %s: %w", plugin, strings.Join(paths, ", "), errdefs.ErrUnavailable)
	}
	return path, nil
}

// pluginError is the plugin's own JSON error where it wrote one, else what else is known.
func pluginError(stage string, out program.Result) error {
	var e types.Error
	if err := json.Unmarshal(out.Stdout, &e); err == nil && (e.Msg != "" || e.Code != 0) {
		switch e.Code {
		case types.ErrTryAgainLater, types.ErrPluginNotAvailable, types.ErrLimitedConnectivity:
			return fmt.Errorf("%s: %w (code %d): %w", stage, &e, e.Code, errdefs.ErrUnavailable)
		}
		return fmt.Errorf("%s: %w (code %d)", stage, &e, e.Code)
	}
	how := fmt.Sprintf("exit code %d", out.Code)
	if out.Signal != 0 {
		how = "killed by signal " + out.Signal.String()
	}
	if said := out.Said(); said != "" {
		how += ": " + said
	}
	return fmt.Errorf("%s: %s", stage, how)
}

func command(env []string) string {
	for _, e := range env {
		if c, ok := strings.CutPrefix(e, "CNI_COMMAND="); ok {
			return c
		}
	}
	return "?"
}
