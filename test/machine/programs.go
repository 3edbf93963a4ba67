// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/cri-shim/cri-shim/test/critest/images"
)

// built is the folder, below the tree, of what is built for the machines of an architecture.
func built(arch string) string { return filepath.Join(".cache", "machine", "built", arch) }

// buildTests builds the tests that run in the machines, and for upstream's suite its runner and the parts of its images.
func buildTests(ctx context.Context, root string, machines []machine) error {
	var made []string
	for _, m := range machines {
		arch := m.kernel.arch()
		for _, s := range m.steps {
			program := filepath.Join(built(arch), s.program())
			if s.folder == "" || slices.Contains(made, program) {
				continue
			}
			made = append(made, program)
			if err := command(ctx, root, "env", "GOARCH="+arch, "go", "test", "-c", "-tags", "integration", "-o", program, "./"+s.folder); err != nil {
				return err
			}
		}
	}
	if !slices.ContainsFunc(machines, machine.conforms) {
		return nil
	}
	return errors.Join(
		command(ctx, root, "go", "build", "-o", filepath.Join(built(runtime.GOARCH), "critest-run"), "./test/critest"),
		images.Fetch(ctx, images.Options{
			Cache: filepath.Join(root, ".cache", "critest"), Pause: "cmd/pause/pause_" + runtime.GOARCH,
			Say: func(format string, args ...any) { fmt.Printf("machine: "+format+"\n", args...) },
		}))
}

// conforms tells whether a machine is to run upstream's suite.
func (m machine) conforms() bool {
	return slices.ContainsFunc(m.steps, func(s step) bool { return s.needs != "" })
}

// libraries are what runc is linked with for another processor.
func libraries(arch string) part {
	return part{"libraries", "bookworm", "build/libraries", []string{arch, "libseccomp-dev"}, []string{"build/libraries", "build/unpack"}}
}

// triplets name compilers and folders of libraries by architecture.
var triplets = map[string]string{"arm64": "aarch64-linux-gnu"}

// buildProduct builds, as make build does, the programs for a processor that this machine does not have.
func buildProduct(ctx context.Context, root, arch string) error {
	folder, err := libraries(arch).make(ctx, root)
	if err != nil {
		return fmt.Errorf("make the libraries for %s: %w", arch, err)
	}
	return command(ctx, root, "env", "GOARCH="+arch, "CC="+triplets[arch]+"-gcc",
		"PKG_CONFIG_SYSROOT_DIR="+folder, "PKG_CONFIG_LIBDIR="+filepath.Join(folder, "usr/lib", triplets[arch], "pkgconfig"),
		"make", "-s", "BIN="+built(arch), "build", filepath.Join(built(arch), "testbox"))
}
