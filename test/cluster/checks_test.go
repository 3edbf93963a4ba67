// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// checks are what users do with a cluster, each by its name.
var checks = []struct {
	name string
	do   func(*trial)
}{
	{"a Deployment spreads, rolls out and scales to nothing", deployment},
	{"a DaemonSet runs on each node", daemonSet},
	{"pods of a StatefulSet have names in DNS", statefulSet},
	{"a Job completes", job},
	{"a Job fails with the code and message of its container", failingJob},
	{"init containers run in order", initChain},
	{"an init container that fails is tried again", initRetried},
	{"a sidecar starts before a Job's container and ends after it", sidecar},
	{"kubectl debug --profile=legacy", debug("legacy", caps, "000 shared")},
	{"kubectl debug --profile=general", debug("general", caps, "010 shared")},
	{"kubectl debug --profile=baseline", debug("baseline", caps, "000 shared")},
	{"kubectl debug --profile=restricted", debug("restricted", "id -u; grep CapEff /proc/self/status | cut -f2", "1000\n0000000000000000", object{"securityContext": object{"runAsUser": 1000}})},
	{"kubectl debug --profile=netadmin", debug("netadmin", caps, "100 shared")},
	{"kubectl debug --profile=sysadmin", debug("sysadmin", caps, "111 shared")},
	{"kubectl debug node", debugNode},
	{"hostPath of no type", hostPath("", "ls /data", "x", func(path string) error { return directoryWith(path, "x") })},
	{"hostPath DirectoryOrCreate", hostPath("DirectoryOrCreate", "stat -c %F /data", "directory", nothing)},
	{"hostPath Directory", hostPath("Directory", "stat -c %F /data", "directory", directory)},
	{"hostPath FileOrCreate", hostPath("FileOrCreate", "stat -c %F /data", "regular empty file", nothing)},
	{"hostPath File", hostPath("File", "cat /data", "text", file)},
	{"hostPath Socket", hostPath("Socket", "stat -c %F /data", "socket", socket)},
	{"hostPath CharDevice", hostPath("CharDevice", "head -c 3 /data | wc -c", "3", charDevice)},
	{"hostPath BlockDevice", hostPath("BlockDevice", "stat -c '%F %t:%T' /data", "block special file 7:7", blockDevice)},
	{"hostPath of another type is refused", hostPathOfAnotherType},
	{"subPath and subPathExpr", subPath},
	{"projected volumes", projected},
	{"a ConfigMap changes under a pod", changedConfigMap},
	{"image volumes, and a part of one", imageVolume},
	{"a PersistentVolumeClaim by hostPath", claim},
	{"a volume in memory with fsGroup", memoryVolume},
	{"hooks after the start and before the stop", hooks},
	{"a liveness probe by exec", probed("live-exec", "touch /tmp/well; sleep 5; rm /tmp/well; "+forever, object{"exec": object{"command": []string{"cat", "/tmp/well"}}})},
	{"a liveness probe by HTTP", probed("live-http", "", object{"httpGet": object{"path": "/healthz", "port": 8080}}, object{"container": agnhost("liveness")})},
	{"a liveness probe by gRPC", probed("live-grpc", "", object{"grpc": object{"port": 5000}}, object{"container": agnhost("grpc-health-checking", "--port", "5000", "--delay-unhealthy-sec", "5")})},
	{"a startup probe, then readiness by TCP", readiness},
	{"resize in place", resize},
	{"a user namespace", userNamespace},
	{"out of memory is the reason of an end", outOfMemory},
	{"containers share a pod's processes", sharedProcesses},
	{"namespaces of the node", hostNamespaces},
	{"the log of the life before", previousLog},
	{"sysctls and hostAliases", sysctls},
	{"a confined container", confined},
	{"pods reach each other across nodes", acrossNodes},
	{"a Service by name and address, across nodes", clusterIP},
	{"a Service by NodePort, at each node", nodePort},
	{"hostPort, and nothing of it after the pod", hostPort},
	{"kubectl exec: streams and exit code", execs},
	{"kubectl cp, there and back", copies},
	{"kubectl attach", attaches},
	{"kubectl port-forward", forwards},
	{"kubectl logs -f to the end", follows},
	{"stats and metrics over CRI", stats},
	{"the kubelets take events", eventedPLEG},
}

// TestCluster does what users do, and then replaces the runtime under load.
func TestCluster(t *testing.T) {
	c := start(t)
	var passed atomic.Int32
	t.Run("checks", func(t *testing.T) {
		for _, check := range checks {
			t.Run(check.name, func(t *testing.T) {
				t.Parallel()
				check.do(&trial{T: t, cluster: c})
				if !t.Failed() {
					passed.Add(1)
				}
			})
		}
	})
	fmt.Printf("cluster: %d of %d checks passed\n", passed.Load(), len(checks))
	t.Run("rolling upgrade", func(t *testing.T) { rollingUpgrade(&trial{T: t, cluster: c}) })
}
