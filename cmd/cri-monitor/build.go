// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// version is set by the linker.
var version = "0.1.0-dev"

// build says which one this process is. The hash tells two builds apart, which
// nobody tries to make alike; a better one would be much of the binary.
func build() wire.Build {
	b := wire.Build{Version: version}
	if f, err := os.Open("/proc/self/exe"); err == nil {
		defer f.Close()
		h := fnv.New64a()
		if _, err := io.Copy(h, f); err == nil {
			b.ID = strconv.FormatUint(h.Sum64(), 16)
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			b.Time = at.Unix()
		}
	}
	return b
}

// describe is build for --check.
func describe() string {
	b, err := json.Marshal(build())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// startedFrom is the path this program was started by: an upgrade executes what is
// there then, whatever has become of the file that runs now. A name that does not
// lead to the running file, for a caller may give any, is not believed.
func startedFrom() (string, error) {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if path, err := filepath.Abs(os.Args[0]); err == nil && filepath.Base(os.Args[0]) != os.Args[0] {
		if there, err := os.Stat(path); err == nil && os.SameFile(there, own) {
			return path, nil
		}
	}
	return os.Executable()
}
