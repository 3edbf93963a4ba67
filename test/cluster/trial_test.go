// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/critest/images"
	"github.com/cri-shim/cri-shim/test/node"
)

// trial is one check of a cluster under way.
type trial struct {
	*testing.T
	*cluster
}

// patience is how long a check waits for what the cluster does by itself; on a machine that has time it takes seconds.
const patience = 2 * time.Minute

// must runs kubectl and fails the check if it fails.
func (c *trial) must(args ...string) string {
	c.Helper()
	out, err := c.kubectl("", args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// apply makes objects.
func (c *trial) apply(objects ...object) {
	c.Helper()
	data, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": objects})
	if err == nil {
		_, err = c.kubectl(string(data), "apply", "-f", "-")
	}
	if err != nil {
		c.Fatal(err)
	}
}

// wait waits for a condition of an object as kubectl wait has it.
func (c *trial) wait(what, condition string) {
	c.Helper()
	if out, err := c.kubectl("", "wait", what, "--for="+condition, "--timeout="+node.Patience(patience).String()); err != nil {
		state, _ := c.kubectl("", "describe", what)
		c.Fatalf("%v: %s\n%s", err, out, state)
	}
}

func (c *trial) ready(pod string) {
	c.Helper()
	c.wait("pod/"+pod, "condition=Ready")
}

// eventually waits for what has no condition.
func (c *trial) eventually(what string, ok func() bool) {
	c.Helper()
	for end := time.Now().Add(node.Patience(patience)); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.Fatalf("not within %s: %s", node.Patience(patience), what)
}

// field is one value of an object.
func (c *trial) field(what, path string) string {
	c.Helper()
	return c.must("get", what, "-o", "jsonpath={"+path+"}")
}

// exec runs a shell's command in a pod.
func (c *trial) exec(pod, script string) string {
	c.Helper()
	return c.must("exec", pod, "--", "sh", "-c", script)
}

// says makes a pod that ends, and wants it to end well and to have written this.
func (c *trial) says(p object, want string) {
	c.Helper()
	c.apply(p)
	name := "pod/" + p["metadata"].(object)["name"].(string)
	c.wait(name, "jsonpath={.status.phase}=Succeeded")
	if got := c.must("logs", name, "-c", "main"); strings.TrimSpace(got) != want {
		c.Errorf("%s wrote %q, want %q", name, got, want)
	}
}

// pod is one with a container that runs a shell's script. Of each of with, "container" and "metadata" add to these, the
// rest to the pod's spec.
func pod(name, script string, with ...object) object {
	main := object{"name": "main", "image": images.Busybox, "command": []string{"sh", "-c", script}}
	meta := object{"name": name, "labels": object{"app": name}}
	spec := object{"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": []object{main}}
	for _, w := range with {
		for key, value := range w {
			switch key {
			case "container":
				maps.Copy(main, value.(object))
			case "metadata":
				maps.Copy(meta, value.(object))
			default:
				spec[key] = value
			}
		}
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
}

// container is another one of a pod.
func container(name, script string, with ...object) object {
	c := object{"name": name, "image": images.Busybox, "command": []string{"sh", "-c", script}}
	for _, w := range with {
		maps.Copy(c, w)
	}
	return c
}

// controller is an object that makes pods of a template.
func controller(kind, name string, template object, with object) object {
	version := "apps/v1"
	spec := object{"template": object{"metadata": template["metadata"], "spec": template["spec"]}}
	if kind == "Job" {
		version = "batch/v1"
	} else {
		spec["selector"] = object{"matchLabels": object{"app": name}}
		template["spec"].(object)["restartPolicy"] = "Always"
	}
	maps.Copy(spec, with)
	delete(template["metadata"].(object), "name")
	return object{"apiVersion": version, "kind": kind, "metadata": object{"name": name}, "spec": spec}
}

// volume is a pod's one volume, mounted at /data.
func volume(source object, with ...object) object {
	v, mount := object{"name": "data"}, object{"name": "data", "mountPath": "/data"}
	maps.Copy(v, source)
	for _, w := range with {
		maps.Copy(mount, w)
	}
	return object{"volumes": []object{v}, "container": object{"volumeMounts": []object{mount}}}
}

// service is one for the pods of an app.
func service(app string, port, target int, with ...object) object {
	spec := object{"selector": object{"app": app}, "ports": []object{{"port": port, "targetPort": target}}}
	for _, w := range with {
		maps.Copy(spec, w)
	}
	return object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": app}, "spec": spec}
}

// agnhost is a container of upstream's test server.
func agnhost(args ...string) object {
	return object{"image": images.Agnhost, "command": append([]string{"/agnhost"}, args...)}
}

const forever = "trap 'exit 0' TERM; while :; do sleep 1; done"

// spread keeps the pods of an app on different nodes.
func spread(app string) object {
	return object{"affinity": object{"podAntiAffinity": object{"requiredDuringSchedulingIgnoredDuringExecution": []object{
		{"topologyKey": "kubernetes.io/hostname", "labelSelector": object{"matchLabels": object{"app": app}}},
	}}}}
}
