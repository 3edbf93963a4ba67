// SPDX-License-Identifier: Apache-2.0

// Command cri-shim is a CRI runtime for Kubernetes nodes.
//
// It serves the CRI v1 API on a unix socket, starts the pods' processes through
// cri-monitor, and may stop or crash at any time without any of them noticing.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// version is set by the linker.
var version = "0.1.0-dev"

func main() {
	if err := sys.OffFirstThread(run); err != nil {
		fmt.Fprintln(os.Stderr, "cri-shim:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return command().ExecuteContext(ctx)
}

// command builds the command line: the daemon itself, config and version.
func command() *cobra.Command {
	var file string
	flags := defaults()
	root := &cobra.Command{
		Use: "cri-shim", Short: "A CRI runtime for Kubernetes nodes",
		SilenceUsage: true, SilenceErrors: true, Version: version, Args: cobra.NoArgs,
	}
	effective := func(cmd *cobra.Command) (Config, error) {
		c, err := loadConfig(file, cmd.Flags().Changed("config"))
		if err != nil {
			return c, err
		}
		for name, set := range map[string]func(){
			"listen": func() { c.Listen = flags.Listen }, "root": func() { c.Root = flags.Root },
			"state": func() { c.State = flags.State }, "log-level": func() { c.LogLevel = flags.LogLevel },
			"start-monitor": func() { c.Runtime.StartMonitor = flags.Runtime.StartMonitor },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		return c, c.validate()
	}
	root.PersistentFlags().StringVar(&file, "config", defaultConfigFile, "configuration file (TOML)")
	root.PersistentFlags().StringVar(&flags.Listen, "listen", flags.Listen, "socket to serve the CRI on")
	root.PersistentFlags().StringVar(&flags.Root, "root", flags.Root, "persistent directory")
	root.PersistentFlags().StringVar(&flags.State, "state", flags.State, "directory that is gone after a reboot")
	root.PersistentFlags().StringVar(&flags.LogLevel, "log-level", flags.LogLevel, "debug, info, warn or error")
	root.PersistentFlags().BoolVar(&flags.Runtime.StartMonitor, "start-monitor", flags.Runtime.StartMonitor, "start the monitor when none runs")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := effective(cmd)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), c)
	}
	root.AddCommand(&cobra.Command{
		Use: "config", Short: "Print the configuration in force, with every key", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := effective(cmd)
			if err != nil {
				return err
			}
			return toml.NewEncoder(cmd.OutOrStdout()).Encode(c)
		},
	})
	root.AddCommand(&cobra.Command{
		Use: "wipe", Short: "Remove every pod, the default network and the monitor; images stay. The daemon must not run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := effective(cmd)
			if err != nil {
				return err
			}
			return wipe(cmd.Context(), c)
		},
	})
	return root
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, c Config) error {
	log, err := newLogger(c.LogLevel)
	if err != nil {
		return err
	}
	// The daemon idles most of its life: give memory back rather than keep it
	// for the next burst. SetGCPercent honours GOGC when the user set it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	// The streaming libraries write every normal end of a session to stderr;
	// sessions are in our own log already.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	outlive(ctx, log)
	err = with(ctx, c, log, func(ctx context.Context, d *daemon) error { return d.run(ctx) })
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped, pods run on")
	return nil
}

// wipe undoes what a stopped daemon keeps on purpose.
func wipe(ctx context.Context, c Config) error {
	log, err := newLogger(c.LogLevel)
	if err != nil {
		return err
	}
	return with(ctx, c, log, func(ctx context.Context, d *daemon) error { return d.wipe(ctx) })
}

// with builds a daemon for do, and ends what it runs when do has returned.
func with(ctx context.Context, c Config, log *slog.Logger, do func(context.Context, *daemon) error) error {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	d, err := wire(ctx, g, c, log)
	if err == nil {
		defer d.close()
		err = do(ctx, d)
	}
	cancel()
	return cmp.Or(err, g.Wait())
}

func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
