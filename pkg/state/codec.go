// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// recordVersion is written into every file. A newer one is set aside: an older
// daemon must not guess.
const recordVersion = 1

type podFile struct {
	Version   int             `json:"version"`
	Pod       *Pod            `json:"pod"`
	Config    json.RawMessage `json:"config"`
	Overhead  json.RawMessage `json:"overhead,omitempty"`
	Resources json.RawMessage `json:"resources,omitempty"`
}

type containerFile struct {
	Version   int               `json:"version"`
	Container *Container        `json:"container"`
	Config    json.RawMessage   `json:"config"`
	User      json.RawMessage   `json:"user,omitempty"`
	Resources json.RawMessage   `json:"resources,omitempty"`
	Mounts    []json.RawMessage `json:"mounts,omitempty"`
}

func encodePod(p Pod) ([]byte, error) {
	f := podFile{Version: recordVersion, Pod: &p}
	var e messages
	f.Config = e.encode(p.Config)
	f.Overhead = e.encode(p.Overhead)
	f.Resources = e.encode(p.Resources)
	return e.finish(f)
}

func decodePod(data []byte) (Pod, error) {
	var f podFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Pod{}, err
	}
	if err := checkVersion(f.Version); err != nil {
		return Pod{}, err
	}
	if f.Pod == nil || !validID(string(f.Pod.ID)) {
		return Pod{}, fmt.Errorf("no valid pod id in it")
	}
	p := *f.Pod
	var e messages
	p.Config = decode(&e, f.Config, &cri.PodSandboxConfig{})
	p.Overhead = decode(&e, f.Overhead, &cri.LinuxContainerResources{})
	p.Resources = decode(&e, f.Resources, &cri.LinuxContainerResources{})
	if e.err == nil && p.Config.GetMetadata() == nil {
		return Pod{}, fmt.Errorf("no pod metadata in it")
	}
	return p, e.err
}

func encodeContainer(c Container) ([]byte, error) {
	f := containerFile{Version: recordVersion, Container: &c}
	var e messages
	f.Config = e.encode(c.Config)
	f.User = e.encode(c.User)
	f.Resources = e.encode(c.Resources)
	for _, m := range c.Mounts {
		f.Mounts = append(f.Mounts, e.encode(m))
	}
	return e.finish(f)
}

func decodeContainer(data []byte) (Container, error) {
	var f containerFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Container{}, err
	}
	if err := checkVersion(f.Version); err != nil {
		return Container{}, err
	}
	if f.Container == nil || !validID(string(f.Container.ID)) || !validID(string(f.Container.Pod)) {
		return Container{}, fmt.Errorf("no valid container and pod id in it")
	}
	c := *f.Container
	var e messages
	c.Config = decode(&e, f.Config, &cri.ContainerConfig{})
	c.User = decode(&e, f.User, &cri.ContainerUser{})
	c.Resources = decode(&e, f.Resources, &cri.ContainerResources{})
	for _, raw := range f.Mounts {
		c.Mounts = append(c.Mounts, decode(&e, raw, &cri.Mount{}))
	}
	if e.err == nil && c.Config.GetMetadata() == nil {
		return Container{}, fmt.Errorf("no container metadata in it")
	}
	return c, e.err
}

// messages encodes and decodes protobuf members and keeps the first error, so
// that the lists above stay lists.
type messages struct{ err error }

func (e *messages) encode(m proto.Message) json.RawMessage {
	if e.err != nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	var raw []byte
	raw, e.err = protojson.Marshal(m)
	return raw
}

func (e *messages) finish(file any) ([]byte, error) {
	if e.err != nil {
		return nil, e.err
	}
	return json.Marshal(file)
}

func decode[M proto.Message](e *messages, raw json.RawMessage, into M) M {
	var none M
	if e.err != nil || len(raw) == 0 {
		return none
	}
	// A field this version does not know was written by a newer one with the
	// same record version: dropping it is what protobuf readers do.
	e.err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, into)
	return into
}

func checkVersion(v int) error {
	if v != recordVersion {
		return fmt.Errorf("record version %d, this daemon reads %d", v, recordVersion)
	}
	return nil
}
