// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// TestConfigPrintsEveryKey: `cri-shim config` leaves out no key, also those that are empty by default.
func TestConfigPrintsEveryKey(t *testing.T) {
	var out bytes.Buffer
	c := command()
	c.SetArgs([]string{"config", "--config", writeConfig(t, "[runtime.handlers.runc]\n")})
	c.SetOut(&out)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := toml.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	keys := 0
	var walk func(at string, want reflect.Type, in map[string]any)
	walk = func(at string, want reflect.Type, in map[string]any) {
		for field := range want.Fields() {
			key := field.Tag.Get("toml")
			value, ok := in[key]
			if keys++; key == "" || !ok {
				t.Errorf("%s%s (%q) is not printed", at, field.Name, key)
			}
			inner, _ := value.(map[string]any)
			switch field.Type.Kind() {
			case reflect.Struct:
				walk(at+key+".", field.Type, inner)
			case reflect.Map: // of handlers
				runc, _ := inner["runc"].(map[string]any)
				walk(at+key+".runc.", field.Type.Elem(), runc)
			}
		}
	}
	walk("", reflect.TypeFor[Config](), got)
	if keys < 40 {
		t.Errorf("only %d keys looked at", keys)
	}
}

// TestDurations: a duration is text with a unit; what an earlier version printed, a number of nanoseconds, is read too.
func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"4h"`: 4 * time.Hour, `"1h30m"`: 90 * time.Minute, `"90s"`: 90 * time.Second, `"250ms"`: 250 * time.Millisecond, "300000000000": 5 * time.Minute,
	} {
		c, err := loadConfig(writeConfig(t, "[stream]\nidle_timeout = "+text+"\n"), true)
		if err == nil {
			err = c.validate()
		}
		if err != nil || time.Duration(c.Stream.IdleTimeout) != want {
			t.Errorf("%s: %s, %v", text, time.Duration(c.Stream.IdleTimeout), err)
		}
		printed, err := c.Stream.IdleTimeout.MarshalText()
		if again, parsed := time.ParseDuration(string(printed)); err != nil || parsed != nil || again != want {
			t.Errorf("%s is printed as %s: %v, %v", text, printed, err, parsed)
		}
	}
	for text, mention := range map[string]string{`"soon"`: "90s", `""`: "90s", "90": "90ns is shorter", `"0s"`: "shorter", `"-4h"`: "shorter"} {
		c, err := loadConfig(writeConfig(t, "[stream]\nidle_timeout = "+text+"\n"), true)
		if err == nil {
			err = c.validate()
		}
		if err == nil || !strings.Contains(err.Error(), mention) || !strings.Contains(err.Error(), "stream.idle_timeout") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for d, want := range map[time.Duration]string{4 * time.Hour: "4h", 5 * time.Minute: "5m", 90 * time.Minute: "1h30m", 10 * time.Second: "10s", time.Hour + 5*time.Second: "1h0m5s", 0: "0s"} {
		if got, _ := Duration(d).MarshalText(); string(got) != want {
			t.Errorf("%s is printed as %s, want %s", d, got, want)
		}
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
