// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	unlimited   = ^uint64(0)
)

// process sets argv, environment, directory and identity.
func (c *container) process() error {
	args, err := c.args()
	if err != nil {
		return err
	}
	dir := c.in.Config.GetWorkingDir()
	if dir == "" {
		dir = c.in.Image.WorkingDir
	}
	if strings.ContainsRune(dir, 0) {
		return refusal.Invalid("image's working directory", "%q holds a NUL", dir)
	}
	c.spec.Process = &specs.Process{
		Terminal: c.in.Config.GetTty(),
		Args:     args,
		Env:      c.env(),
		Cwd:      path.Join("/", dir),
		User:     c.in.User.Spec(),
		Rlimits:  rlimits(c.in.Host),
	}
	return nil
}

// args: the config's command replaces the image's entrypoint and its cmd; the config's args replace only the cmd.
func (c *container) args() ([]string, error) {
	args := slices.Concat(c.in.Config.GetCommand(), c.in.Config.GetArgs())
	if len(c.in.Config.GetCommand()) == 0 {
		tail := c.in.Config.GetArgs()
		if len(tail) == 0 {
			tail = c.in.Image.Cmd
		}
		args = slices.Concat(c.in.Image.Entrypoint, tail)
	}
	if len(args) == 0 || args[0] == "" {
		return nil, refusal.Invalid("command", "nothing to run, neither here nor in the image")
	}
	return args, validArgs("command", args)
}

func validArgs(field string, args []string) error {
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return refusal.Invalid(field, "%q holds a NUL", a)
		}
	}
	return nil
}

// env lays the sources over each other, a later one winning in the place of the earlier: defaults, image, config.
func (c *container) env() []string {
	e := environ{}
	e.set("PATH", defaultPath)
	if name := c.hostname(); name != "" {
		e.set("HOSTNAME", name)
	}
	if c.in.Config.GetTty() {
		e.set("TERM", "xterm")
	}
	e.set("HOME", c.in.User.Home)
	for _, kv := range c.in.Image.Env {
		if key, value, ok := strings.Cut(kv, "="); ok && key != "" && !strings.ContainsRune(kv, 0) {
			e.set(key, value)
		}
	}
	for _, kv := range c.in.Config.GetEnvs() {
		e.set(kv.GetKey(), string(kv.GetValue()))
	}
	return e.list
}

func (c *container) hostname() string {
	if name := c.in.Sandbox.GetHostname(); name != "" {
		return name
	}
	return c.in.Host.Hostname
}

// environ is an environment that keeps the order in which names came up.
type environ struct {
	list []string
	at   map[string]int
}

func (e *environ) set(key, value string) {
	if e.at == nil {
		e.at = map[string]int{}
	}
	i, known := e.at[key]
	if !known {
		e.at[key] = len(e.list)
		e.list = append(e.list, key+"="+value)
		return
	}
	e.list[i] = key + "=" + value
}

// rlimits are ours rather than the daemon's, which differ with how it was started: an unlimited RLIMIT_NOFILE makes
// programs crawl that close every possible descriptor, and 1024 is too few for servers that never raise it.
func rlimits(host Host) []specs.POSIXRlimit {
	limits := []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE", Soft: unlimited, Hard: unlimited},
		{Type: "RLIMIT_MEMLOCK", Soft: 8 << 20, Hard: 8 << 20},
		{Type: "RLIMIT_NOFILE", Soft: 1 << 16, Hard: 1 << 20},
		{Type: "RLIMIT_NPROC", Soft: unlimited, Hard: unlimited},
		{Type: "RLIMIT_STACK", Soft: 8 << 20, Hard: unlimited},
	}
	for i := range limits {
		if most, ok := host.RlimitMax[limits[i].Type]; ok {
			limits[i].Hard = min(limits[i].Hard, most)
			limits[i].Soft = min(limits[i].Soft, limits[i].Hard)
		}
	}
	return limits
}

// ValidateCommand checks the argv of an exec session, the program first. The error is ErrInvalidArgument.
func ValidateCommand(argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return refusal.Invalid("cmd", "nothing to run")
	}
	return validArgs("cmd", argv)
}

// Exec returns the process of an exec session in the container of spec: its user, rights and directory, with another
// argv, and a terminal when asked for one. spec is not changed.
func Exec(spec *specs.Spec, argv []string, tty bool) (*specs.Process, error) {
	if err := ValidateCommand(argv); err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, refusal.Unmet("cmd", "the container has no process")
	}
	p := *spec.Process
	p.Args, p.Terminal, p.ConsoleSize = slices.Clone(argv), tty, nil
	p.Env = slices.Clone(p.Env)
	if tty && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &p, nil
}
