// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"strings"
)

func deployment(c *trial) {
	c.apply(controller("Deployment", "deploy", pod("deploy", forever, spread("deploy")), object{
		"replicas": 2, "strategy": object{"type": "Recreate"},
	}))
	c.must("rollout", "status", "deployment/deploy", "--timeout=2m")
	nodes := strings.Fields(c.must("get", "pods", "-l", "app=deploy", "-o", "jsonpath={.items[*].spec.nodeName}"))
	if len(nodes) != 2 || nodes[0] == nodes[1] {
		c.Errorf("pods are on %v", nodes)
	}
	c.must("set", "env", "deployment/deploy", "ROUND=2")
	c.must("rollout", "status", "deployment/deploy", "--timeout=2m")
	if got := c.must("exec", "deployment/deploy", "--", "sh", "-c", "echo $ROUND"); got != "2\n" {
		c.Errorf("after the rollout the pods are of round %q", got)
	}
	c.must("scale", "deployment/deploy", "--replicas=0")
	c.eventually("scaled to nothing", func() bool { return c.must("get", "pods", "-l", "app=deploy", "-o", "name") == "" })
}

func daemonSet(c *trial) {
	c.apply(controller("DaemonSet", "daemon", pod("daemon", forever), nil))
	c.must("rollout", "status", "daemonset/daemon", "--timeout=2m")
	if got := c.field("daemonset/daemon", ".status.numberReady"); got != "2" {
		c.Errorf("%s pods are ready", got)
	}
}

func statefulSet(c *trial) {
	c.apply(service("state", 80, 80, object{"clusterIP": "None"}),
		controller("StatefulSet", "state", pod("state", "hostname > /tmp/index.html; httpd -f -p 80 -h /tmp"), object{"serviceName": "state", "replicas": 2}))
	c.must("rollout", "status", "statefulset/state", "--timeout=2m")
	for _, name := range []string{"state-0", "state-1"} {
		c.eventually("the name of "+name+" leads to it", func() bool {
			got, err := c.kubectl("", "exec", "state-0", "--", "wget", "-q", "-O-", "-T", "2", "http://"+name+".state.default.svc."+domain)
			return err == nil && got == name+"\n"
		})
	}
}

func job(c *trial) {
	c.apply(controller("Job", "job", pod("job", "echo done"), object{"completions": 4, "parallelism": 2}))
	c.wait("job/job", "condition=Complete")
	if got := c.field("job/job", ".status.succeeded"); got != "4" {
		c.Errorf("%s pods succeeded", got)
	}
}

func failingJob(c *trial) {
	c.apply(controller("Job", "fails", pod("fails", "echo because > /dev/termination-log; exit 3"), object{"backoffLimit": 0}))
	c.wait("job/fails", "condition=Failed")
	ended := c.must("get", "pods", "-l", "app=fails", "-o", "jsonpath={range .items[*].status.containerStatuses[0].state.terminated}{.exitCode} {.reason} {.message}{end}")
	if strings.TrimSpace(ended) != "3 Error because" {
		c.Errorf("the pod ended with %q", ended)
	}
}

func initChain(c *trial) {
	data := volume(object{"emptyDir": object{}})
	mounts := object{"volumeMounts": data["container"].(object)["volumeMounts"]}
	c.says(pod("inits", "cat /data/said", data, object{"initContainers": []object{
		container("a", "echo one >> /data/said", mounts), container("b", "sleep 1; echo two >> /data/said", mounts),
		container("c", "echo three >> /data/said", mounts),
	}}), "one\ntwo\nthree")
}

func initRetried(c *trial) {
	data := volume(object{"emptyDir": object{}})
	mounts := object{"volumeMounts": data["container"].(object)["volumeMounts"]}
	c.says(pod("init-retry", "wc -l < /data/tries", data, object{"restartPolicy": "OnFailure", "initContainers": []object{
		container("a", "echo try >> /data/tries; [ $(wc -l < /data/tries) = 2 ]", mounts),
	}}), "2")
	if got := c.field("pod/init-retry", ".status.initContainerStatuses[0].restartCount"); got != "1" {
		c.Errorf("the init container was restarted %s times", got)
	}
}

func sidecar(c *trial) {
	data := volume(object{"emptyDir": object{}})
	always := object{"volumeMounts": data["container"].(object)["volumeMounts"], "restartPolicy": "Always"}
	c.apply(controller("Job", "sidecar", pod("sidecar", "cat /data/up", data, object{"initContainers": []object{
		container("side", "echo up > /data/up; "+forever, always, object{"startupProbe": object{"exec": object{"command": []string{"cat", "/data/up"}}, "periodSeconds": 1}}),
	}}), object{"backoffLimit": 0}))
	c.wait("job/sidecar", "condition=Complete")
	if got := c.must("logs", "job/sidecar", "-c", "main"); got != "up\n" {
		c.Errorf("the container saw %q of its sidecar", got)
	}
	ended := c.must("get", "pods", "-l", "app=sidecar", "-o", "jsonpath={.items[0].status.initContainerStatuses[0].state.terminated.exitCode}")
	if ended != "0" {
		c.Errorf("the sidecar ended with %q", ended)
	}
}

// debug adds an ephemeral container with a profile and wants it to be what the profile says.
func debug(profile, script, want string, with ...object) func(*trial) {
	return func(c *trial) {
		name := "debug-" + profile
		c.apply(pod(name, forever, with...))
		c.ready(name)
		c.must("debug", name, "--image="+busybox, "--profile="+profile, "--target=main", "-c", "look", "--quiet", "--", "sh", "-c", script)
		c.eventually("the ephemeral container ended", func() bool {
			return c.field("pod/"+name, ".status.ephemeralContainerStatuses[0].state.terminated.exitCode") == "0"
		})
		if got := c.must("logs", name, "-c", "look"); strings.TrimSpace(got) != want {
			c.Errorf("the ephemeral container wrote %q, want %q", got, want)
		}
	}
}

// caps prints the bits of the named capabilities in the effective set, and sees the processes of the target.
const caps = `set -- $(grep CapEff /proc/self/status); for bit in 12 19 21; do printf "%d" $((0x$2 >> bit & 1)); done; pidof sleep >/dev/null && echo " shared"`

func debugNode(c *trial) {
	c.must("debug", "node/n1", "--image="+busybox, "--profile=sysadmin", "--quiet", "--", "sh", "-c", "cat /proc/sys/kernel/hostname; ls -d /host/etc")
	var name string
	for line := range strings.Lines(c.must("get", "pods", "-o", "name")) { // kubectl names only what it attaches to
		if strings.HasPrefix(line, "pod/node-debugger-n1-") {
			name = strings.TrimSpace(line)
		}
	}
	c.wait(name, "jsonpath={.status.phase}=Succeeded")
	if got := c.must("logs", name); got != "n1\n/host/etc\n" {
		c.Errorf("the pod on the node wrote %q", got)
	}
}
