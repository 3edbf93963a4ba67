// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// conf is one look at the configuration directory; immutable.
type conf struct {
	stamp string                    // names, sizes and times of what was looked at
	file  string                    // base name that list comes from
	list  *libcni.NetworkConfigList // nil: no valid configuration, err says why
	empty bool                      // not one configuration file, not even a broken one
	err   error
}

// current returns the directory's present configuration; it parses only what changed since the last look.
func (s *Service) current() *conf {
	files, stamp := s.survey()
	if c := s.conf.Load(); c != nil && c.stamp == stamp {
		return c
	}
	s.loadMu.Lock()
	defer s.loadMu.Unlock()
	old := s.conf.Load()
	if old != nil && old.stamp == stamp {
		return old
	}
	c := s.load(files)
	c.stamp = stamp
	same := old != nil && old.list != nil && c.list != nil && old.file == c.file && bytes.Equal(old.list.Bytes, c.list.Bytes)
	if same {
		c.list = old.list // touched only; what is known of the old one, such as its STATUS, still holds
	}
	s.conf.Store(c)
	switch {
	case same:
	case c.list != nil:
		s.log.Info("cni configuration loaded", "file", c.file, "network", c.list.Name, "plugins", pluginTypes(c.list))
	case old == nil || old.list != nil:
		s.log.Info("no cni configuration", "err", c.err)
	}
	return c
}

// survey lists the configuration files by name and stamps all that a load would read, the plugin folders included.
func (s *Service) survey() ([]string, string) {
	var files []string
	var stamp strings.Builder
	note := func(name string) {
		if st, err := os.Stat(name); err == nil {
			fmt.Fprintf(&stamp, "%s %d %d\n", name, st.Size(), st.ModTime().UnixNano())
		}
	}
	note(s.o.ConfDir)
	entries, err := os.ReadDir(s.o.ConfDir)
	if err != nil {
		return nil, "unreadable: " + err.Error()
	}
	for _, e := range entries { // sorted by name
		name := filepath.Join(s.o.ConfDir, e.Name())
		if e.IsDir() { // plugins of the network of that name may lie in it
			note(name)
			inner, _ := filepath.Glob(filepath.Join(name, "*.conf"))
			for _, f := range inner {
				note(f)
			}
			continue
		}
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			files = append(files, name)
			note(name)
		}
	}
	return files, stamp.String()
}

// load takes the first file that is a usable configuration, and says once for each broken one what is wrong with it.
func (s *Service) load(files []string) *conf {
	c := &conf{empty: len(files) == 0}
	errs := []error{fmt.Errorf("no CNI configuration in %s: %w", s.o.ConfDir, errdefs.ErrUnavailable)}
	for _, f := range files {
		list, err := loadFile(f)
		if err == nil {
			c.file, c.list = filepath.Base(f), list
			return c
		}
		s.log.Warn("cni configuration file skipped", "file", f, "err", err)
		errs = append(errs, fmt.Errorf("%s: %w", filepath.Base(f), err))
	}
	c.err = errors.Join(errs...)
	return c
}

func loadFile(name string) (*libcni.NetworkConfigList, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if _, single := m["type"]; single && m["plugins"] == nil { // a lone plugin: make it a list of one
		m = map[string]any{"name": m["name"], "cniVersion": m["cniVersion"], "plugins": []any{m}}
		if m["cniVersion"] == nil {
			delete(m, "cniVersion")
		}
		return parseList(m)
	}
	list, err := libcni.NetworkConfFromFile(name)
	if err != nil {
		return nil, err
	}
	// Plugins out of the network's folder are not in the list's bytes, but what we keep for DEL must have them.
	plugins := make([]any, 0, len(list.Plugins))
	for _, p := range list.Plugins {
		plugins = append(plugins, json.RawMessage(p.Bytes))
	}
	m["plugins"], m["loadOnlyInlinedPlugins"] = plugins, true
	return parseList(m)
}

func parseList(m map[string]any) (*libcni.NetworkConfigList, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return parseListBytes(raw)
}

func parseListBytes(raw []byte) (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(raw)
	if err != nil {
		return nil, err
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, err
	}
	if newer, err := version.GreaterThan(list.CNIVersion, version.Current()); err != nil || newer {
		return nil, fmt.Errorf("cniVersion %q: this runtime knows up to %s", list.CNIVersion, version.Current())
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("no plugins")
	}
	return list, nil
}

func pluginTypes(list *libcni.NetworkConfigList) []string {
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types
}

// atLeast11 reports whether the network's CNI version has STATUS and GC.
func atLeast11(list *libcni.NetworkConfigList) bool {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return ok && err == nil
}
