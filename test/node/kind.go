// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Kind is a CRI runtime this package can start.
type Kind string

// The runtimes.
const (
	CRIShim    Kind = "cri-shim"
	Containerd Kind = "containerd"
	CRIO       Kind = "crio"
)

// Program finds the runtime's daemon: ours in bin, the others where $CONTAINERD or $CRIO say, else on PATH.
func (k Kind) Program(bin string) (string, error) {
	name := os.Getenv(strings.ToUpper(string(k)))
	switch {
	case k == CRIShim:
		name = filepath.Join(bin, string(k))
	case name == "":
		name = string(k)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", k, err)
	}
	return filepath.Abs(path)
}

const cniConf = `{
  "cniVersion": "1.0.0", "name": "cri-test",
  "plugins": [
    {"type": "bridge", "bridge": %q, "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
`

const criShimConf = `
listen = "{dir}/cri.sock"
root = "{dir}/root"
state = "{dir}/state"
[cni]
conf_dir = "{dir}/net.d"
bin_dir = ["{bin}/cni"]
default_network = {default}
bridge = "{bridge}"
[image]
preload_dir = "{preload}"
[registry]
config_path = "{hosts}"
[runtime.handlers.runc]
path = "{bin}/runc"
[nri]
enable = {nri}
socket = "{dir}/nri.sock"
`

const containerdConf = `version = 4
root = "{dir}/root"
state = "{dir}/state"
imports = []
[plugins.'io.containerd.server.v1.grpc']
address = "{dir}/cri.sock"
[plugins.'io.containerd.server.v1.ttrpc']
address = "{dir}/cri.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{hosts}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{bin}/runc"
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{bin}/cni"]
conf_dir = "{dir}/net.d"
[plugins.'io.containerd.nri.v1.nri']
disable = {nonri}
socket_path = "{dir}/nri.sock"
plugin_path = "{dir}/nri-plugins"
plugin_config_path = "{dir}/nri-conf.d"
`

const crioConf = `
[crio]
root = "{dir}/root"
runroot = "{dir}/state"
storage_driver = "overlay"
log_dir = "{dir}/logs"
version_file = "{dir}/version"
version_file_persist = "{dir}/version-persist"
clean_shutdown_file = "{dir}/clean"
[crio.api]
listen = "{dir}/cri.sock"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "runc"
container_exits_dir = "{dir}/exits"
container_attach_socket_dir = "{dir}/attach"
namespaces_dir = "{dir}/ns"
[crio.runtime.runtimes.runc]
runtime_path = "{bin}/runc"
runtime_root = "{dir}/state/runc"
[crio.image]
pause_image = "{pause}"
signature_policy = "{dir}/policy.json"
[crio.network]
network_dir = "{dir}/net.d"
plugin_dirs = ["{bin}/cni"]
[crio.nri]
enable_nri = {nri}
nri_listen = "{dir}/nri.sock"
`

// PauseImage is the infra image of the runtimes that need one.
const PauseImage = "registry.k8s.io/pause:3.9"

// DefaultHandler is a line before all tables of a configuration: pods that ask for no OCI runtime get this one.
func DefaultHandler(name string) string { return fmt.Sprintf("runtime.default = %q\n", name) }

// prepare makes the node's folder and writes its configuration.
func (n *Node) prepare() error {
	for _, dir := range []string{"net.d", "tmp"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	text := n.Text
	if text == "" {
		text = n.expand(map[Kind]string{CRIShim: criShimConf, Containerd: containerdConf, CRIO: crioConf}[n.Kind])
		if n.Kind == CRIShim {
			text += n.More
		}
		if name := os.Getenv("CRI_TEST_HANDLER"); name != "" && n.Kind == CRIShim {
			text = DefaultHandler(name) + text
		}
	}
	errs := []error{n.write("config.toml", text)}
	if n.Network.Subnet != "" && !n.Network.Default {
		errs = append(errs, n.write("net.d/10-test.conflist",
			fmt.Sprintf(cniConf, n.Network.Bridge, filepath.Join(n.Dir, "ipam"), n.Network.Subnet)))
	}
	if n.Kind == CRIO {
		var mirrors strings.Builder
		for _, host := range []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"} {
			fmt.Fprintf(&mirrors, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", host, n.Registry)
		}
		errs = append(errs, n.write("registries.conf", mirrors.String()),
			n.write("policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`))
	}
	return errors.Join(errs...)
}

func (n *Node) write(name, text string) error {
	return os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o644)
}

func (n *Node) expand(text string) string {
	return strings.NewReplacer("{dir}", n.Dir, "{bin}", n.Bin, "{hosts}", n.Hosts, "{bridge}", n.Network.Bridge,
		"{preload}", n.Preload, "{pause}", PauseImage, "{default}", fmt.Sprint(n.Network.Default),
		"{nri}", fmt.Sprint(n.NRI), "{nonri}", fmt.Sprint(!n.NRI)).Replace(text)
}

// command is how the daemon is started.
func (n *Node) command() *exec.Cmd {
	program := n.Program
	if program == "" {
		var err error
		if program, err = n.Kind.Program(n.Bin); err != nil {
			program = string(n.Kind) // Up says why
		}
	}
	args := n.inside(program, "--config", n.Config)
	cmd := exec.Command(args[0], args[1:]...)
	if n.Kind == CRIO {
		cmd.Args = append(cmd.Args, "--config-dir", "")
	}
	if n.LogLevel != "" {
		cmd.Args = append(cmd.Args, "--log-level", n.LogLevel)
	}
	cmd.Env = append(os.Environ(), n.environment()...)
	if n.Kind != CRIShim { // whose helpers lie beside it
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(program)+":"+n.Bin+":"+os.Getenv("PATH"),
			"CONTAINERS_REGISTRIES_CONF="+filepath.Join(n.Dir, "registries.conf"))
	}
	return cmd
}

// environment is what the node's programs get besides ours: temporary files go where they are found.
func (n *Node) environment() []string {
	return append([]string{"TMPDIR=" + filepath.Join(n.Dir, "tmp"), "GORACE=atexit_sleep_ms=0"}, n.Env...)
}

// Programs is where the programs are that a node runs: the folder $CRI_TEST_BIN, or bin, of the module this process was
// started in. Other folders have programs that were built another way, as bin/race has.
func Programs() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	name := os.Getenv("CRI_TEST_BIN")
	switch {
	case name == "":
		name = "bin"
	case filepath.IsAbs(name):
		return name, nil
	}
	return filepath.Join(root, name), nil
}

// Root is the folder of the module that this process was started in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find go.mod: not inside the module")
}

// Patience is how long to wait for what takes limit at most on a usual machine. $CRI_TEST_PATIENCE, a factor, is for
// slow ones: emulated ones, say.
func Patience(limit time.Duration) time.Duration {
	if factor, err := strconv.Atoi(os.Getenv("CRI_TEST_PATIENCE")); err == nil && factor > 0 {
		return limit * time.Duration(factor)
	}
	return limit
}
