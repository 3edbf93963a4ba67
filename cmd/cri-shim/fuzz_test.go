// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// FuzzConfig: whatever is in the file is a configuration or an error that names
// the file.
func FuzzConfig(f *testing.F) {
	all, err := toml.Marshal(defaults())
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		string(all), "", "root = 1\n", "no_such = true\n", "[image]\nprogress_timeout = \"1m\"\n", "[runtime.handlers.x]\n", "[runtime]\nhandlers = 1\n", "listen = \"unix://\"",
	} {
		f.Add(text)
	}
	path := filepath.Join(f.TempDir(), "config.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(path, true)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if err := c.validate(); err != nil && !strings.HasPrefix(err.Error(), "check config: ") {
			t.Errorf("%q: %v", text, err)
		}
		c.defaultNetwork()
	})
}
