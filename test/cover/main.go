// SPDX-License-Identifier: Apache-2.0

// Command cover runs `go test` and holds each package of the product to its floor: the share of its statements that
// unit tests reached when floors.txt was written, in whole percent, less 3 points for what depends on timing. The tests of all packages count, because those of a
// family of packages are often beside the one that the others are used through.
//
//	go run ./test/cover -race -timeout 15m ./...    # runs the tests, then compares
//	go run ./test/cover -write -race ./...          # runs the tests, then writes floors.txt
//
// It hands its other arguments to go test. It fails when a test fails, when a package is below its floor, and when a
// package has no floor or a floor has no package: then floors.txt is to be written again. Without root, which tests
// that mount need, and with another version of cgroups than floors.txt has, nothing is compared.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	table  = "test/cover/floors.txt"
	module = "github.com/cri-shim/cri-shim/"
)

func main() {
	args := os.Args[1:]
	write := len(args) > 0 && args[0] == "-write"
	if write {
		args = args[1:]
	}
	if err := run(args, write); err != nil {
		fmt.Fprintln(os.Stderr, "cover:", err)
		os.Exit(1)
	}
}

func run(args []string, write bool) error {
	shares, err := test(args)
	if err != nil {
		return err
	}
	version := 1
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		version = 2
	}
	if write {
		return os.WriteFile(table, []byte(format(shares, version)), 0o644)
	}
	raw, err := os.ReadFile(table)
	if err != nil {
		return err
	}
	floors, measuredOn, err := parse(string(raw))
	switch {
	case err != nil:
		return err
	case os.Getuid() != 0 || version != measuredOn:
		fmt.Printf("not run: comparison of the coverage with its floors: they are those of root with cgroup v%d\n", measuredOn)
		return nil
	}
	if faults := compare(shares, floors); len(faults) > 0 {
		return errors.New(strings.Join(faults, "\n       "))
	}
	return nil
}

// test runs go test and returns the share of each package in percent.
func test(args []string) (map[string]float64, error) {
	profile, err := os.CreateTemp("", "cover-*.out")
	if err != nil {
		return nil, err
	}
	defer os.Remove(profile.Name())
	defer profile.Close()
	cmd := exec.Command("go", append([]string{"test", "-coverpkg=./cmd/...,./pkg/...", "-coverprofile=" + profile.Name()}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go test: %w", err)
	}
	return measure(profile)
}
