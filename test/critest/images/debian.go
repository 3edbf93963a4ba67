// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// debian fetches packages with the machine's own apt and sources, into a folder of ours: nothing is installed, and the
// machine's package lists stay as they are.
type debian struct {
	dir string
	say func(format string, args ...any)
}

var errNoDebian = errors.New("the contents of these images come from Debian's packages, and this machine has no apt-get with Debian's sources")

func (d debian) options() []string {
	return []string{
		"-qq", "-o", "Dir::Etc::SourceList=" + filepath.Join(d.dir, "debian.sources"), "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(d.dir, "lists"), "-o", "Dir::Cache=" + filepath.Join(d.dir, "apt"),
		"-o", "APT::Sandbox::User=root",
	}
}

// update reads the package lists, source packages included.
func (d debian) update(ctx context.Context) error {
	for _, sub := range []string{"lists/partial", "apt/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return err
		}
	}
	sources, err := withSources()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "debian.sources"), []byte(sources), 0o644); err != nil {
		return err
	}
	d.say("reading Debian's package lists")
	return d.run(ctx, d.dir, "apt-get", append(d.options(), "update")...)
}

// withSources is the machine's Debian sources in deb822 form, with source packages switched on.
func withSources() (string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", errNoDebian
	}
	names, err := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	if err != nil {
		return "", err
	}
	var stanzas []string
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		for stanza := range strings.SplitSeq(string(data), "\n\n") {
			if strings.Contains(stanza, "debian-archive-keyring") {
				stanzas = append(stanzas, strings.Replace(stanza, "Types: deb\n", "Types: deb deb-src\n", 1))
			}
		}
	}
	if len(stanzas) == 0 {
		return "", errNoDebian
	}
	return strings.Join(stanzas, "\n\n") + "\n", nil
}

// source unpacks a source package into dir.
func (d debian) source(ctx context.Context, name, dir string) error {
	get := filepath.Join(d.dir, name+".source")
	if err := os.MkdirAll(get, 0o755); err != nil {
		return err
	}
	if err := d.run(ctx, get, "apt-get", append(d.options(), "source", "--download-only", name)...); err != nil {
		return err
	}
	dsc, err := filepath.Glob(filepath.Join(get, "*.dsc"))
	if err != nil || len(dsc) != 1 {
		return fmt.Errorf("find the source of %s: %d .dsc files: %w", name, len(dsc), errors.Join(err, os.ErrNotExist))
	}
	return d.run(ctx, get, "dpkg-source", "--no-check", "-x", dsc[0], dir)
}

// unpack fetches packages and unpacks them, unconfigured, below dir.
func (d debian) unpack(ctx context.Context, dir string, names ...string) error {
	get := dir + ".debs"
	if err := os.MkdirAll(get, 0o755); err != nil {
		return err
	}
	d.say("fetching Debian packages: %s", strings.Join(names, " "))
	if err := d.run(ctx, get, "apt-get", slices.Concat(d.options(), []string{"download"}, names)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(get, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := d.run(ctx, get, "dpkg-deb", "-x", deb, dir); err != nil {
			return err
		}
	}
	return nil
}

// closure is the packages and all that they depend on.
func (d debian) closure(ctx context.Context, names ...string) ([]string, error) {
	args := slices.Concat(d.options(), []string{
		"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
	}, names)
	out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("run apt-cache depends: %w", err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if line[0] != ' ' && line[0] != '<' { // what a package depends on is indented; virtual packages are in brackets
			all = append(all, strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (d debian) run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, tail(out))
	}
	return nil
}

func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "; ")
}

// libraries returns the shared libraries that programs below root need, resolved below root, and the program loader.
func libraries(root string, programs ...string) ([]string, error) {
	var found []string
	for queue := programs; len(queue) > 0; {
		name := queue[0]
		queue = queue[1:]
		at, err := securejoin.SecureJoin(root, name)
		if err != nil {
			return nil, err
		}
		needed, err := imported(at)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		for _, lib := range needed {
			at, err := locate(root, lib)
			if err != nil {
				return nil, fmt.Errorf("find %s, which %s needs: %w", lib, name, err)
			}
			if !slices.Contains(found, at) {
				found = append(found, at)
				queue = append(queue, at)
			}
		}
	}
	return found, nil
}

// imported is what the dynamic loader will look for, the loader itself included.
func imported(name string) ([]string, error) {
	f, err := elf.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			path := make([]byte, p.Filesz)
			if _, err := p.ReadAt(path, 0); err != nil {
				return nil, err
			}
			libs = append(libs, strings.Trim(string(path), "\x00"))
		}
	}
	return libs, nil
}

func locate(root, lib string) (string, error) {
	for _, pattern := range []string{"/lib/*/" + lib, "/usr/lib/*/" + lib, "/lib/" + lib, lib} {
		hits, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return "", err
		}
		if len(hits) > 0 {
			return strings.TrimPrefix(hits[0], root+"/"), nil
		}
	}
	return "", os.ErrNotExist
}
