// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func hooks(c *trial) {
	path := c.host("hooks")
	c.apply(pod("hooks", "while [ ! -e /data/begun ]; do sleep 1; done; "+forever, volume(onHost(path, "Directory")), object{
		"nodeName": "n1", "terminationGracePeriodSeconds": 20, "container": object{"lifecycle": object{
			"postStart": object{"exec": object{"command": []string{"touch", "/data/begun"}}},
			"preStop":   object{"exec": object{"command": []string{"sh", "-c", "echo $(hostname) > /data/ended"}}},
		}},
	}))
	c.ready("hooks")
	if _, err := os.Stat(filepath.Join(path, "begun")); err != nil {
		c.Error(err)
	}
	c.must("delete", "pod", "hooks", "--timeout=60s")
	if data, err := os.ReadFile(filepath.Join(path, "ended")); string(data) != "hooks\n" {
		c.Errorf("the hook before the stop wrote %q, %v", data, err)
	}
}

// probed wants a container that is always restarted to be so when its probe says that it is ill.
func probed(kind, script string, probe object, with ...object) func(*trial) {
	return func(c *trial) {
		name := strings.ToLower(kind)
		probe["periodSeconds"], probe["failureThreshold"], probe["timeoutSeconds"] = 1, 3, 5
		c.apply(pod(name, script, append([]object{{"container": object{"livenessProbe": probe}, "restartPolicy": "Always"}}, with...)...))
		c.ready(name)
		c.eventually("the container is restarted", func() bool {
			return c.field("pod/"+name, ".status.containerStatuses[0].restartCount") != "0"
		})
	}
}

func readiness(c *trial) {
	c.apply(pod("readiness", "while [ ! -e /tmp/open ]; do sleep 1; done; httpd -f -p 80", object{"container": object{
		"readinessProbe": object{"tcpSocket": object{"port": 80}, "periodSeconds": 1},
		"startupProbe":   object{"exec": object{"command": []string{"true"}}, "periodSeconds": 1},
	}}))
	c.eventually("the container has started", func() bool {
		return c.field("pod/readiness", ".status.containerStatuses[0].started") == "true"
	})
	if got := c.field("pod/readiness", ".status.containerStatuses[0].ready"); got != "false" {
		c.Errorf("ready is %s before anything listens", got)
	}
	c.exec("readiness", "touch /tmp/open")
	c.ready("readiness")
}

func resize(c *trial) {
	c.apply(pod("resize", forever, object{"container": object{"resources": object{
		"requests": object{"cpu": "10m", "memory": "16Mi"}, "limits": object{"cpu": "100m", "memory": "32Mi"},
	}}}))
	c.ready("resize")
	id := c.field("pod/resize", ".status.containerStatuses[0].containerID")
	quota := "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
	if got := strings.Fields(c.exec("resize", quota))[0]; got != "10000" {
		c.Errorf("the quota is %s", got)
	}
	c.must("patch", "pod", "resize", "--subresource", "resize", "-p", `{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"200m","memory":"48Mi"}}}]}}`)
	c.eventually("the status has the new limits", func() bool {
		return c.field("pod/resize", ".status.containerStatuses[0].resources.limits") == `{"cpu":"200m","memory":"48Mi"}`
	})
	if got := strings.Fields(c.exec("resize", quota))[0]; got != "20000" {
		c.Errorf("the quota is %s after the resize", got)
	}
	if got := c.field("pod/resize", ".status.containerStatuses[0].containerID"); got != id {
		c.Error("the container was restarted")
	}
}

func userNamespace(c *trial) {
	// The kernel mounts no /proc in a user namespace where the one outside is covered in part (mount_too_revealing).
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.nodes[0].held.Process.Pid))
	if err != nil {
		c.Fatal(err)
	}
	if strings.Contains(string(mounts), " /proc/sys/") {
		c.Skip("parts of the nodes' /proc are covered, so that their kubelets change no setting of this machine")
	}
	c.says(pod("userns", "[ $(awk '{print $2}' /proc/self/uid_map) != 0 ] && id -u && touch /data/x && stat -c %u /data/x", volume(object{"emptyDir": object{}}), object{"hostUsers": false}), "0\n0")
}

func outOfMemory(c *trial) {
	c.apply(pod("oom", "x=$(yes | head -c 200000000)", object{"container": object{"resources": object{"limits": object{"memory": "16Mi"}}}}))
	c.wait("pod/oom", "jsonpath={.status.phase}=Failed")
	if got := c.field("pod/oom", ".status.containerStatuses[0].state.terminated.reason"); got != "OOMKilled" {
		c.Errorf("the reason is %s", got)
	}
}

func sharedProcesses(c *trial) {
	c.apply(pod("shared", forever, object{"shareProcessNamespace": true}))
	c.ready("shared")
	if got := c.exec("shared", "cat /proc/1/comm; pidof sleep >/dev/null && echo seen"); got != "pause\nseen\n" {
		c.Errorf("process 1 is %q", got)
	}
}

func hostNamespaces(c *trial) {
	c.says(pod("of-host", "hostname; ip -4 addr show eth0 | grep -o '10.99.0.11'; [ $(cat /proc/1/comm) != pause ] && echo processes",
		object{"nodeName": "n1", "hostNetwork": true, "hostPID": true, "hostIPC": true}), "n1\n10.99.0.11\nprocesses")
}

func previousLog(c *trial) {
	c.apply(pod("previous", "echo life $RANDOM > /dev/null; echo said; exit 4", object{"restartPolicy": "Always"}))
	c.eventually("the container was restarted", func() bool {
		return c.field("pod/previous", ".status.containerStatuses[0].restartCount") != "0"
	})
	// The kubelet keeps one dead container and removes the one before as soon as there is another: an answer may be too late.
	c.eventually("the log of the life before is there", func() bool {
		got, err := c.kubectl("", "logs", "previous", "--previous")
		return err == nil && got == "said\n"
	})
	if got := c.field("pod/previous", ".status.containerStatuses[0].lastState.terminated.exitCode"); got != "4" {
		c.Errorf("the life before ended with %s", got)
	}
}

func sysctls(c *trial) {
	c.says(pod("sysctl", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; grep other /etc/hosts", object{
		"securityContext": object{"sysctls": []object{{"name": "net.ipv4.ip_unprivileged_port_start", "value": "7"}, {"name": "kernel.msgmax", "value": "4096"}}},
		"hostAliases":     []object{{"ip": "192.0.2.1", "hostnames": []string{"other"}}},
	}), "7\n4096\n192.0.2.1\tother")
}

func confined(c *trial) {
	c.says(pod("confined", "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | awk '{print $2}'; touch /x 2>/dev/null || echo read-only", object{"container": object{
		"securityContext": object{
			"runAsUser": 1234, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": object{"drop": []string{"ALL"}}, "seccompProfile": object{"type": "RuntimeDefault"},
		},
	}}), "1234\n0000000000000000\n1\n2\nread-only")
}
