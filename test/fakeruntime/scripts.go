// SPDX-License-Identifier: Apache-2.0

package fakeruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kind is a way to misbehave.
type Kind string

// What the runtime and the plugin can be told to do at one call.
const (
	Fail    Kind = "fail"    // say why, and fail
	Hang    Kind = "hang"    // do nothing for ten minutes
	NoPid   Kind = "nopid"   // run: succeed and leave no pid
	Half    Kind = "half"    // be killed when it is half done
	Slow    Kind = "slow"    // take half a second
	Rubbish Kind = "rubbish" // answer what is no answer: a pid file without a pid, a result that is no JSON
	Absent  Kind = "absent"  // say that there is no such container
)

// Sleeper is a program that runs until it is killed.
const Sleeper = "#!/bin/sh\nexec sleep 1000\n"

// Boxed is the handler whose runtime has containers that are no processes of this
// machine, as far as the daemon can tell.
const Boxed = "boxed"

// runtimeScript stands in for runc, and for gVisor's runsc: wait and kill are for
// that. run starts args[0] of the spec's root on the
// host, in a cgroup but without
// namespaces; exec starts its command on the host likewise; update does nothing.
const runtimeScript = `#!/bin/sh
dir=@DIR@ log=/dev/stderr said=$*
while [ $# -gt 0 ]; do
	case $1 in
	--root) root=$2 && shift ;;
	--log) log=$2 && shift ;;
	--bundle) spec=$2/config.json && shift ;;
	--process) spec=$2 && shift ;;
	--pid-file) pidfile=$2 && shift ;;
	--cgroup) sub=${2#*:} && shift ;;
	--internal-pid-file) inside=$2 && shift ;;
	--log-format | --console-socket | --resources) shift ;;
	--pid | --pgid) number=$2 && shift ;;
	run | exec | delete | update | features | wait | kill) verb=$1 ;;
	-*) ;;
	*) [ -n "$id" ] && signal=$1 || id=$1 ;;
	esac
	shift
done
if [ -e "$dir/fault.$verb" ] && mv "$dir/fault.$verb" "$dir/fault.$$" 2>/dev/null; then
	read -r fault <"$dir/fault.$$" && rm "$dir/fault.$$"
fi
echo "$said" >>"$dir/calls.$verb"
case $fault in
fail) echo '{"level":"error","msg":"refused by the test"}' >>"$log" && exit 1 ;;
absent) echo '{"level":"error","msg":"container does not exist"}' >>"$log" && exit 1 ;;
hang) exec sleep 600 ;;
slow) sleep 0.5 ;;
nopid) exit 0 ;;
esac
case $verb in
delete) rm -r "$root/$id" && exit ;;
features) echo '{"ociVersionMin":"1.0.0","mountOptions":["rro"]}' && exit ;;
update) exit 0 ;;
wait)
	read -r pid <"$root/$id/pid" || exit 1
	while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
	echo '{"id":"'"$id"'","exitStatus":143}' && exit
	;;
kill)
	[ -n "$number" ] || read -r number <"$root/$id/pid"
	kill -"$signal" "$number" 2>/dev/null && exit
	echo '{"level":"error","msg":"signaling process in container PID 0: no such process"}' >>"$log" && exit 1
	;;
esac
# Of the spec: what to run, and for a container where its root is, and its cgroup.
eval "$(sed -n 's/","/" "/g; s/\\u003e/>/g; s/\\u003c/</g; s/\\u0026/\&/g; s/[$]/\\&/g; h
	s/\],"\(env\|cwd\)".*//; s/.*"args":\[/set -- /p; g; s/.*"root":{"path":\("[^"]*"\).*/at=\1/p
	g; s/.*"cgroupsPath":\("[^"]*"\).*/cgroup=\1/p' "$spec")" && cd /
exec 3<&0
for groups in /sys/fs/cgroup/freezer /sys/fs/cgroup/pids /sys/fs/cgroup; do
	[ ! -e $groups/cgroup.procs ] || break
done
case $verb in
run)
	mkdir -p "$root/$id" ${cgroup:+"$groups$cgroup"}
	[ -z "$cgroup" ] || echo "$cgroup" >>"$dir/cgroups"
	echo "$cgroup" >"$root/$id/cgroup"
	program=$at$1 && shift
	;;
exec)
	read -r cgroup <"$root/$id/cgroup"
	program=$1 && shift
	;;
esac
[ -z "$cgroup" ] || echo $$ >"$groups$cgroup$sub/cgroup.procs"
# The program begins when this shell is gone: one that ended before, the shell would reap in the monitor's place.
gate=$dir/gate.$$ && mkfifo "$gate"
{
	read -r _ <"$gate"
	exec "$program" "$@" <&3 3<&-
} &
exec 4>"$gate" && rm "$gate"
case $fault in
half) echo $! >"$pidfile" && kill -9 $$ ;;
rubbish) echo none >"$pidfile" ;;
*)
	[ "$verb" != run ] || echo $! >"$root/$id/pid"
	[ -z "$inside" ] || echo $! >"$inside"
	exec /bin/echo $! >"$pidfile"
	;;
esac
`

// pluginScript stands in for a CNI plugin. It changes nothing, and answers an address.
const pluginScript = `#!/bin/sh
dir=@DIR@ && cat >/dev/null
if [ -e "$dir/fault.$CNI_COMMAND" ] && mv "$dir/fault.$CNI_COMMAND" "$dir/fault.$$" 2>/dev/null; then
	read -r fault <"$dir/fault.$$" && rm "$dir/fault.$$"
fi
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$dir/calls.plugin"
case $fault in
fail) echo '{"cniVersion":"1.0.0","code":999,"msg":"refused by the test"}' && exit 1 ;;
hang) exec sleep 600 ;;
half) kill -9 $$ ;;
slow) sleep 0.5 ;;
rubbish) echo '{' && exit ;;
esac
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}'
`

const networkConf = `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake-plugin"}]}`

func (n *Node) writeScripts() error {
	for name, text := range map[string]string{"runtime": runtimeScript, "bin/fake-plugin": pluginScript, "net.d/fake.conflist": networkConf} {
		if err := n.write(name, strings.ReplaceAll(text, "@DIR@", n.Dir)); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) write(name, text string) error {
	path := filepath.Join(n.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o700)
}

// Fault makes the next call of a verb of the runtime (run, exec, delete, update,
// features), or of a command of the plugin (ADD, DEL), go wrong.
func (n *Node) Fault(verb string, kind Kind) {
	n.t.Helper()
	next := fmt.Sprintf("next.%s", verb)
	if err := n.write(next, string(kind)+"\n"); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(n.Dir, next), filepath.Join(n.Dir, "fault."+verb)); err != nil {
		n.t.Fatal(err)
	}
}

// Heal takes back every fault that has not struck.
func (n *Node) Heal() {
	left, _ := filepath.Glob(filepath.Join(n.Dir, "fault.*"))
	for _, path := range left {
		os.Remove(path)
	}
}

// Calls are the command lines that a verb of the runtime was called with so far,
// or, of "plugin", the commands of the plugin and the pods they were for.
func (n *Node) Calls(verb string) []string {
	data, _ := os.ReadFile(filepath.Join(n.Dir, "calls."+verb))
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")[:strings.Count(string(data), "\n")]
}
