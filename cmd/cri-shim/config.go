// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/pelletier/go-toml/v2"
)

// defaultConfigFile is read when no --config is given, and need not exist.
const defaultConfigFile = "/etc/cri-shim/config.toml"

// Config is everything that can be set. Every key has a default that works.
type Config struct {
	Listen   string         `toml:"listen" comment:"socket the kubelet connects to"`
	Root     string         `toml:"root" comment:"images and records; survives a reboot"`
	State    string         `toml:"state" comment:"bundles, pipes and sockets; gone after a reboot"`
	LogLevel string         `toml:"log_level" comment:"debug, info, warn or error"`
	CNI      CNIConfig      `toml:"cni"`
	Image    ImageConfig    `toml:"image"`
	Registry RegistryConfig `toml:"registry"`
	Runtime  RuntimeConfig  `toml:"runtime"`
	Cgroup   CgroupConfig   `toml:"cgroup"`
	Stream   StreamConfig   `toml:"stream"`
	NRI      NRIConfig      `toml:"nri"`
	CDI      CDIConfig      `toml:"cdi"`
	Metrics  MetricsConfig  `toml:"metrics"`
}

// CNIConfig says how pods get a network.
type CNIConfig struct {
	ConfDir        string   `toml:"conf_dir" comment:"network configurations; the first valid one by name is used"`
	BinDir         []string `toml:"bin_dir" comment:"where plugins are looked for, in order"`
	DefaultNetwork bool     `toml:"default_network" comment:"give pods a bridge network while conf_dir has no configuration"`
	Bridge         string   `toml:"bridge" comment:"bridge of the default network"`
	Subnets        []string `toml:"subnets" comment:"the default network takes the first that is free on this host; empty for built-in ones"`
}

// ImageConfig says how images are pulled and preloaded.
type ImageConfig struct {
	PreloadDir      string   `toml:"preload_dir" comment:"OCI layouts and tars imported at start, verified and pinned; empty for none"`
	MaxDownloads    int      `toml:"max_downloads" comment:"layers downloaded at the same time, per pull"`
	ProgressTimeout Duration `toml:"progress_timeout" comment:"a pull without a byte for this long is given up"`
}

// RegistryConfig says where registries are.
type RegistryConfig struct {
	ConfigPath string `toml:"config_path" comment:"tree of <host>/hosts.toml files; read again at each pull"`
}

// RuntimeConfig says which OCI runtimes start containers.
type RuntimeConfig struct {
	Default     string `toml:"default" comment:"handler of pods that name none"`
	SeccompRoot string `toml:"seccomp_root" comment:"directory of relative localhost seccomp profiles"`
	Monitor     string `toml:"monitor" comment:"the cri-monitor program; empty to look beside this one, then in PATH"`
	// StartMonitor is off where an init system keeps the monitor running: two that
	// both start it would race for who is its parent after each of its ends.
	StartMonitor bool                     `toml:"start_monitor" comment:"start the monitor when none runs; false where a unit does"`
	Handlers     map[string]HandlerConfig `toml:"handlers" comment:"one table per RuntimeClass handler"`
}

// HandlerConfig is one OCI runtime.
type HandlerConfig struct {
	Path string `toml:"path" comment:"program; empty to look for the handler's name beside this one, then in PATH"`
	Kind string `toml:"kind" comment:"process: containers are processes of this machine, as of runc and crun; gvisor: they run in gVisor's sandbox; empty is process"`
	Root string `toml:"root" comment:"the runtime's own state; empty for a directory under state"`
	// Annotations are what users write on pods, so that each runtime sees only what it is known to understand.
	PodAnnotations       []string `toml:"pod_annotations" comment:"keys of pod annotations that the runtime sees on pause and containers, as io.katacontainers.*"`
	ContainerAnnotations []string `toml:"container_annotations" comment:"the same for container annotations, which device plugins set"`
}

// CgroupConfig says who manages cgroups.
type CgroupConfig struct {
	Driver string `toml:"driver" comment:"systemd or cgroupfs; empty asks whether systemd runs this machine"`
}

// StreamConfig says where exec, attach and port-forward are served.
type StreamConfig struct {
	Address  string `toml:"address"`
	Port     int    `toml:"port" comment:"0 takes a free one"`
	CertFile string `toml:"cert_file" comment:"with key_file: serve TLS"`
	KeyFile  string `toml:"key_file"`
	// IdleTimeout is long because nothing moves on an idle shell either.
	IdleTimeout Duration `toml:"idle_timeout" comment:"a session on which nothing moves for this long is ended"`
}

// NRIConfig says whether NRI plugins may connect.
type NRIConfig struct {
	Enable          bool   `toml:"enable"`
	Socket          string `toml:"socket"`
	PluginDir       string `toml:"plugin_dir" comment:"programs started as plugins; empty for none"`
	PluginConfigDir string `toml:"plugin_config_dir"`

	RegistrationTimeout Duration        `toml:"plugin_registration_timeout" comment:"how long a plugin may take to register"`
	RequestTimeout      Duration        `toml:"plugin_request_timeout" comment:"how long a plugin may take to answer; one that takes longer is dropped"`
	Validator           ValidatorConfig `toml:"default_validator" comment:"what plugins may not do; the keys are those of containerd and CRI-O"`
}

// ValidatorConfig says which adjustments of plugins fail the creation of a container, and which plugins must be there.
type ValidatorConfig struct {
	Enable                                bool     `toml:"enable"`
	RejectOCIHookAdjustment               bool     `toml:"reject_oci_hook_adjustment"`
	RejectRuntimeDefaultSeccompAdjustment bool     `toml:"reject_runtime_default_seccomp_adjustment"`
	RejectUnconfinedSeccompAdjustment     bool     `toml:"reject_unconfined_seccomp_adjustment"`
	RejectCustomSeccompAdjustment         bool     `toml:"reject_custom_seccomp_adjustment"`
	RejectNamespaceAdjustment             bool     `toml:"reject_namespace_adjustment"`
	RejectSysctlAdjustment                bool     `toml:"reject_sysctl_adjustment"`
	RequiredPlugins                       []string `toml:"required_plugins" comment:"no container is created without them, those of static pods included"`
	TolerateMissingAnnotation             string   `toml:"tolerate_missing_plugins_annotation" comment:"pods with this annotation need none of them"`
}

// CDIConfig says where devices are described (Container Device Interface).
type CDIConfig struct {
	SpecDirs []string `toml:"spec_dirs" comment:"read when a container asks for a device; a later directory wins"`
}

// MetricsConfig says where the daemon's own metrics are served.
type MetricsConfig struct {
	Address string `toml:"address" comment:"host:port for Prometheus; empty for none"`
}

// defaults is the single source of every default.
func defaults() Config {
	return Config{
		Listen: "/run/cri-shim/cri-shim.sock", Root: "/var/lib/cri-shim", State: "/run/cri-shim", LogLevel: "info",
		CNI:      CNIConfig{ConfDir: "/etc/cni/net.d", BinDir: nil, Bridge: "cri0"},
		Image:    ImageConfig{MaxDownloads: 3, ProgressTimeout: Duration(5 * time.Minute)},
		Registry: RegistryConfig{ConfigPath: "/etc/cri-shim/certs.d"},
		Runtime: RuntimeConfig{
			Default: "runc", SeccompRoot: "/var/lib/kubelet/seccomp", StartMonitor: true,
			Handlers: map[string]HandlerConfig{"runc": {}},
		},
		Stream: StreamConfig{Address: "127.0.0.1", IdleTimeout: Duration(4 * time.Hour)},
		NRI: NRIConfig{
			Enable: true, Socket: "/var/run/nri/nri.sock", PluginDir: "/opt/nri/plugins", PluginConfigDir: "/etc/nri/conf.d",
			RegistrationTimeout: Duration(5 * time.Second), RequestTimeout: Duration(5 * time.Second),
		},
		CDI: CDIConfig{SpecDirs: []string{"/etc/cdi", "/var/run/cdi"}},
	}
}

// loadConfig reads path over the defaults. An unknown key, a wrong type and a
// missing file that was asked for are errors that say where.
func loadConfig(path string, required bool) (Config, error) {
	c := defaults()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read config: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, decodeError(path, err)
	}
	name := c.Runtime.Default
	if _, ok := c.Runtime.Handlers[name]; !ok && name != "" {
		c.Runtime.Handlers[name] = HandlerConfig{} // a default needs no table: it is found by its name
	}
	return c, nil
}

// decodeError is what the TOML decoder says, with the place in the file.
func decodeError(path string, err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		return fmt.Errorf("read config %s: unknown key:\n%s", path, strict.String())
	}
	at, ok := errors.AsType[*toml.DecodeError](err)
	if !ok {
		return fmt.Errorf("read config %s: %w", path, err)
	}
	row, column := at.Position()
	where := fmt.Sprintf("line %d, column %d", row, column)
	if key := at.Key(); len(key) > 0 { // none where the text is no TOML at all
		where += ", " + strings.Join(key, ".")
	}
	return fmt.Errorf("read config %s: %s: %w", path, where, err)
}

// validate checks what the types do not say; every problem is reported.
func (c Config) validate() error {
	checks := []struct {
		broken bool
		text   string
	}{
		{!filepath.IsAbs(c.Root), fmt.Sprintf("root: %q is not an absolute path", c.Root)},
		{!filepath.IsAbs(c.State), fmt.Sprintf("state: %q is not an absolute path", c.State)},
		{filepath.Clean(c.Root) == filepath.Clean(c.State), "root and state: must not be the same directory"},
		{!filepath.IsAbs(socketPath(c.Listen)), fmt.Sprintf("listen: %q is not an absolute path or unix:// URL", c.Listen)},
		{len(socketPath(c.Listen)) > 107, fmt.Sprintf("listen: %q is longer than the 107 bytes a socket path can have", c.Listen)},
		{len(c.State) > 80, fmt.Sprintf("state: %q is too long for the sockets below it", c.State)},
		{c.CNI.DefaultNetwork && c.CNI.Bridge == "", "cni.bridge: must be named when cni.default_network is on"},
		{len(c.CNI.Bridge) > 15, fmt.Sprintf("cni.bridge: %q is longer than the 15 bytes an interface name can have", c.CNI.Bridge)},
		{c.Image.MaxDownloads < 1, "image.max_downloads: must be at least 1"},
		{c.Image.ProgressTimeout < shortest, tooShort("image.progress_timeout", c.Image.ProgressTimeout)},
		{c.Cgroup.Driver != "" && c.Cgroup.Driver != "systemd" && c.Cgroup.Driver != "cgroupfs", fmt.Sprintf("cgroup.driver: %q is neither systemd nor cgroupfs", c.Cgroup.Driver)},
		{c.Stream.Port < 0 || c.Stream.Port > 65535, fmt.Sprintf("stream.port: %d is not a port number", c.Stream.Port)},
		{c.Stream.IdleTimeout < shortest, tooShort("stream.idle_timeout", c.Stream.IdleTimeout)},
		{c.NRI.RegistrationTimeout < shortest, tooShort("nri.plugin_registration_timeout", c.NRI.RegistrationTimeout)},
		{c.NRI.RequestTimeout < shortest, tooShort("nri.plugin_request_timeout", c.NRI.RequestTimeout)},
		{slices.ContainsFunc(c.CDI.SpecDirs, func(dir string) bool { return !filepath.IsAbs(dir) }), fmt.Sprintf("cdi.spec_dirs: %q are not all absolute paths", c.CDI.SpecDirs)},
		{!c.NRI.Validator.Enable && c.NRI.Validator.asks(), "nri.default_validator: has keys, but enable is not true"},
		{(c.Stream.CertFile == "") != (c.Stream.KeyFile == ""), "stream.cert_file and stream.key_file: set both or none"},
	}
	var errs []error
	for _, check := range checks {
		if check.broken {
			errs = append(errs, errors.New(check.text))
		}
	}
	if _, ok := c.Runtime.Handlers[c.Runtime.Default]; !ok {
		errs = append(errs, errors.New("runtime.default: it names no handler"))
	}
	for name, h := range c.Runtime.Handlers {
		if err := runc.CheckKind(runc.Kind(h.Kind)); err != nil {
			errs = append(errs, fmt.Errorf("runtime.handlers.%s: %w", name, err))
		}
		for _, pattern := range slices.Concat(h.PodAnnotations, h.ContainerAnnotations) {
			if err := oci.CheckAnnotationPattern(pattern); err != nil {
				errs = append(errs, fmt.Errorf("runtime.handlers.%s: %w", name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("check config: %w", err)
	}
	return nil
}

func tooShort(key string, d Duration) string {
	return fmt.Sprintf("%s: %s is shorter than a millisecond; write it with a unit, such as \"90s\"", key, time.Duration(d))
}

// asks tells whether any key besides enable is set.
func (v ValidatorConfig) asks() bool {
	plugins := len(v.RequiredPlugins) > 0
	v.Enable, v.RequiredPlugins = false, nil
	return plugins || !reflect.DeepEqual(v, ValidatorConfig{})
}

// validation is the validator in NRI's terms, nil when it is off.
func (v ValidatorConfig) validation() *nri.Validation {
	if !v.Enable {
		return nil
	}
	return &nri.Validation{
		RejectHooks: v.RejectOCIHookAdjustment, RejectDefaultSeccomp: v.RejectRuntimeDefaultSeccompAdjustment,
		RejectUnconfinedSeccomp: v.RejectUnconfinedSeccompAdjustment, RejectCustomSeccomp: v.RejectCustomSeccompAdjustment,
		RejectNamespaces: v.RejectNamespaceAdjustment, RejectSysctls: v.RejectSysctlAdjustment,
		RequiredPlugins: v.RequiredPlugins, TolerateMissingAnnotation: v.TolerateMissingAnnotation,
	}
}

// socketPath accepts a plain path and the kubelet's unix:// form.
func socketPath(listen string) string { return strings.TrimPrefix(listen, "unix://") }

// defaultNetwork is the part of the configuration that describes the bridge
// network of a node without CNI configuration. What belongs to another bridge
// than the usual one has other names, so that two daemons do not share it.
func (c Config) defaultNetwork() network.DefaultNetwork {
	name := "cri-shim"
	if c.CNI.Bridge != defaults().CNI.Bridge {
		name += "-" + c.CNI.Bridge
	}
	return network.DefaultNetwork{Name: name, Table: name, Bridge: c.CNI.Bridge, Subnets: c.CNI.Subnets}
}
