// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/critest/images"
)

const busybox = images.Busybox

// host is a new folder of the first node's machine.
func (c *trial) host(name string) string {
	c.Helper()
	dir := c.nodes[0].at(filepath.Join("host", name))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.Fatal(err)
	}
	return dir
}

func onHost(path, kind string) object {
	return object{"hostPath": object{"path": path, "type": kind}}
}

// hostPath mounts what prepare makes and runs a script on it.
func hostPath(kind, script, want string, prepare func(path string) error) func(*trial) {
	return func(c *trial) {
		name := "host-path" + strings.ToLower(kind)
		path := filepath.Join(c.host(name), "it")
		if err := prepare(path); err != nil {
			c.Fatal(err)
		}
		c.says(pod(name, script, volume(onHost(path, kind)), object{"nodeName": "n1"}, object{"container": object{"securityContext": object{"privileged": strings.HasSuffix(kind, "Device")}}}), want)
	}
}

func nothing(string) error { return nil }

func directory(path string) error { return os.Mkdir(path, 0o755) }

func file(path string) error { return os.WriteFile(path, []byte("text\n"), 0o644) }

func socket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err == nil {
		l.SetUnlinkOnClose(false)
		err = l.Close()
	}
	return err
}

func charDevice(path string) error {
	return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
}

// blockDevice is a loop device, which need not have a file.
func blockDevice(path string) error {
	return unix.Mknod(path, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 7)))
}

func hostPathOfAnotherType(c *trial) {
	path := filepath.Join(c.host("refused"), "it")
	if err := file(path); err != nil {
		c.Fatal(err)
	}
	c.apply(pod("host-refused", "true", volume(onHost(path, "Directory")), object{"nodeName": "n1"}))
	c.eventually("the kubelet says why it does not start the pod", func() bool {
		return strings.Contains(c.must("get", "events", "--field-selector=involvedObject.name=host-refused", "-o", "jsonpath={.items[*].message}"), "hostPath type check failed")
	})
	c.must("delete", "pod", "host-refused", "--wait=false")
}

func subPath(c *trial) {
	c.says(pod("subpath", "echo here > /data/x; echo there > /other/y; ls -R /all | grep -v '^$'", object{
		"volumes": []object{{"name": "v", "emptyDir": object{}}},
		"container": object{"env": []object{{"name": "DIR", "value": "b"}}, "volumeMounts": []object{
			{"name": "v", "mountPath": "/data", "subPath": "a"},
			{"name": "v", "mountPath": "/other", "subPathExpr": "$(DIR)/c"},
			{"name": "v", "mountPath": "/all", "readOnly": true},
		}},
	}), "/all:\na\nb\n/all/a:\nx\n/all/b:\nc\n/all/b/c:\ny")
}

func projected(c *trial) {
	c.apply(object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "projected"}, "data": object{"key": "from a map"}},
		object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": "projected"}, "stringData": object{"key": "from a secret"}})
	c.says(pod("projected", "cd /data; cat map; echo; cat secret; echo; cat labels; echo; [ $(wc -c < token) -gt 100 ] && echo token", volume(object{"projected": object{
		"defaultMode": 0o440, "sources": []object{
			{"configMap": object{"name": "projected", "items": []object{{"key": "key", "path": "map"}}}},
			{"secret": object{"name": "projected", "items": []object{{"key": "key", "path": "secret"}}}},
			{"downwardAPI": object{"items": []object{{"path": "labels", "fieldRef": object{"fieldPath": "metadata.labels"}}}}},
			{"serviceAccountToken": object{"path": "token", "audience": "test"}},
		},
	}})), "from a map\nfrom a secret\napp=\"projected\"\ntoken")
}

func changedConfigMap(c *trial) {
	of := func(value string) object {
		return object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "changes"}, "data": object{"key": value}}
	}
	c.apply(of("old"), pod("changes", forever, volume(object{"configMap": object{"name": "changes"}})))
	c.ready("changes")
	c.apply(of("new"))
	c.eventually("the pod sees the change", func() bool { return c.exec("changes", "cat /data/key") == "new" })
}

func imageVolume(c *trial) {
	c.says(pod("image", "ls -d /data/bin /data/etc; cat /part/passwd | head -1; touch /data/x 2>/dev/null || echo read-only", object{
		"volumes":   []object{{"name": "v", "image": object{"reference": images.Nginx}}},
		"container": object{"volumeMounts": []object{{"name": "v", "mountPath": "/data"}, {"name": "v", "mountPath": "/part", "subPath": "etc"}}},
	}), "/data/bin\n/data/etc\nroot:x:0:0:root:/root:/bin/sh\nread-only")
}

func claim(c *trial) {
	path := c.host("claim")
	c.apply(object{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": object{"name": "claimed"}, "spec": object{
		"capacity": object{"storage": "1Mi"}, "accessModes": []string{"ReadWriteOnce"}, "hostPath": object{"path": path},
		"persistentVolumeReclaimPolicy": "Retain", "storageClassName": "by-hand", "nodeAffinity": object{"required": object{"nodeSelectorTerms": []object{
			{"matchExpressions": []object{{"key": "kubernetes.io/hostname", "operator": "In", "values": []string{"n1"}}}},
		}}},
	}}, object{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": object{"name": "claim"}, "spec": object{
		"accessModes": []string{"ReadWriteOnce"}, "storageClassName": "by-hand", "resources": object{"requests": object{"storage": "1Mi"}},
	}})
	mine := volume(object{"persistentVolumeClaim": object{"claimName": "claim"}})
	c.says(pod("claim-writes", "echo kept > /data/it", mine), "")
	c.says(pod("claim-reads", "cat /data/it", mine), "kept")
}

func memoryVolume(c *trial) {
	c.says(pod("memory", "grep ' /data ' /proc/mounts | cut -d' ' -f3; stat -c '%g %a' /data; id -G | tr ' ' '\\n' | sort", volume(object{"emptyDir": object{"medium": "Memory", "sizeLimit": "1Mi"}}),
		object{"securityContext": object{"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": []int{3000}}}), "tmpfs\n2000 3777\n1000\n2000\n3000")
}

func directoryWith(path, name string) error {
	if err := directory(path); err != nil {
		return err
	}
	return file(filepath.Join(path, name))
}
