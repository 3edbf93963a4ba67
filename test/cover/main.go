// SPDX-License-Identifier: Apache-2.0

// Command cover runs `go test -cover` and holds each package of the product to its floor: the share of its statements
// that its tests reached when floors.txt was written, in whole percent.
//
//	go run ./test/cover -race -timeout 15m ./...    # runs the tests, then compares
//	go run ./test/cover -write -race ./...          # runs the tests, then writes floors.txt
//
// It hands its other arguments to go test and prints what that prints. It fails when a test fails, when a package is
// below its floor, and when a package has no floor or a floor has no package: then floors.txt is to be written again.
// Floors are those of root: without it, tests that mount are left out and nothing is compared.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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
	switch {
	case write:
		return os.WriteFile(table, []byte(format(shares)), 0o644)
	case os.Getuid() != 0:
		fmt.Println("not run: comparison of the coverage with its floors: they are those of root")
		return nil
	}
	raw, err := os.ReadFile(table)
	if err != nil {
		return err
	}
	floors, err := parse(string(raw))
	if err != nil {
		return err
	}
	if faults := compare(shares, floors); len(faults) > 0 {
		return errors.New(strings.Join(faults, "\n       "))
	}
	return nil
}

// test runs go test and returns the share of each package in percent.
func test(args []string) (map[string]float64, error) {
	cmd := exec.Command("go", append([]string{"test", "-cover"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	shares := map[string]float64{}
	for lines := bufio.NewScanner(io.TeeReader(out, os.Stdout)); lines.Scan(); {
		if pkg, share, ok := measured(lines.Text()); ok {
			shares[pkg] = share
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("go test: %w", err)
	}
	return shares, nil
}
