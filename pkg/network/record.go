// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// record is everything that a DEL needs. It is written before ADD and so also stands for an attachment that was only
// begun, which libcni's own cache (a result, written after ADD) does not know.
type record struct{ libcni.NetworkAttachment }

func newRecord(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) record {
	return record{libcni.NetworkAttachment{
		ContainerID: rt.ContainerID, Network: list.Name, IfName: rt.IfName, Config: list.Bytes,
		NetNS: rt.NetNS, CniArgs: rt.Args, CapabilityArgs: rt.CapabilityArgs,
	}}
}

func (r record) conf() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := parseListBytes(r.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("recorded network %q: %w: %w", r.Network, err, errdefs.ErrDataLoss)
	}
	return list, &libcni.RuntimeConf{
		ContainerID: r.ContainerID, NetNS: r.NetNS, IfName: r.IfName, Args: r.CniArgs, CapabilityArgs: r.CapabilityArgs,
	}, nil
}

func (s *Service) recordPath(id string) string { return s.path("attachments", id+".json") }

// resultPath holds what an ADD under way has given so far. libcni's cache has the whole result, but only in the end, and
// plugins that find no result at DEL can't find what they made for an address.
func (s *Service) resultPath(id string) string { return s.path("attachments", id+".result") }

// writeRecord does not sync: after a power failure the namespace, and with it the attachment, is gone anyway, and a torn
// record is told from a good one.
func (s *Service) writeRecord(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write attachment record: %w", err)
	}
	path := s.recordPath(r.ContainerID)
	err = os.WriteFile(path, raw, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, raw, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("write attachment record: %w", err)
	}
	return nil
}

// removeRecord removes the record last: it stands for both.
func (s *Service) removeRecord(id string) error {
	for _, path := range []string{s.resultPath(id), s.recordPath(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove attachment record: %w", err)
		}
	}
	return nil
}

// noteResult keeps the result that the next plugin is given. Without room for it, less can be undone after a crash.
func (s *Service) noteResult(id string, soFar []byte) {
	if err := os.WriteFile(s.resultPath(id), soFar, 0o600); err != nil {
		s.log.Debug("interim result of an attachment not saved", "pod", id, "err", err)
	}
}

func (s *Service) notedResult(id string) []byte {
	raw, err := os.ReadFile(s.resultPath(id))
	if err != nil || !json.Valid(raw) {
		return nil
	}
	return raw
}

// readRecord: ErrNotFound when the pod is not attached, ErrDataLoss when the record is torn.
func (s *Service) readRecord(id string) (record, error) {
	raw, err := os.ReadFile(s.recordPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, fmt.Errorf("pod %s is not attached: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return record{}, fmt.Errorf("read attachment record: %w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil || r.ContainerID != id {
		return record{}, fmt.Errorf("read attachment record of pod %s: damaged: %w", id, errdefs.ErrDataLoss)
	}
	return r, nil
}

// Attached lists the pods that have a record of their attachment: those an Add was begun for and no Del finished.
func (s *Service) Attached() ([]string, error) {
	entries, err := os.ReadDir(s.path("attachments"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func gcAttachment(id string) types.GCAttachment {
	return types.GCAttachment{ContainerID: id, IfName: ifName}
}

func (s *Service) claim(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine[id] = struct{}{}
}

func (s *Service) unclaim(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mine, id)
}

func (s *Service) claimed() map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]struct{}, len(s.mine))
	for id := range s.mine {
		out[id] = struct{}{}
	}
	return out
}
