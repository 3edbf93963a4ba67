// SPDX-License-Identifier: Apache-2.0

package leftover

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// hasChain looks where an iptables that works on nftables has its chains.
func hasChain(family nftables.TableFamily, name string) bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListChain(&nftables.Table{Family: family, Name: "nat"}, name)
	return err == nil
}

// hasNAT tells whether the kernel's old tables of a family have one for address translation.
func hasNAT(tables string) bool {
	names, err := os.ReadFile(tables)
	return err == nil && slices.Contains(strings.Fields(string(names)), "nat")
}

// removeMasqueradeChain removes the chain and the jumps to it in one transaction, with the program that the plugins use:
// it knows whether the rules are in the kernel's old tables or in nftables.
func removeMasqueradeChain(ctx context.Context, lock *program.Lock, tool, chain string) (found bool, err error) {
	if _, err := program.Find(tool); err != nil {
		return false, nil // the plugins could not make a chain either
	}
	if there, err := chainRules(ctx, lock, tool, chain); err != nil || there == nil {
		return false, err
	}
	from, err := chainRules(ctx, lock, tool, "POSTROUTING")
	if err != nil {
		return true, err
	}
	lines := []string{"*nat"}
	for _, rule := range from {
		if f := strings.Fields(rule); slices.Contains(f, chain) {
			lines = append(lines, strings.Replace(rule, "-A", "-D", 1))
		}
	}
	lines = append(lines, "-F "+chain, "-X "+chain, "COMMIT", "")
	out, err := filter(ctx, lock, strings.Join(lines, "\n"), tool+"-restore", "--wait", "30", "--noflush")
	if err == nil && out.Code != 0 {
		err = exitError(tool+"-restore", out)
	}
	return true, err
}

// chainRules lists a chain of the nat table, its own declaration first; nil when there is no such chain (exit code 1), or
// no such table in the kernel (3).
func chainRules(ctx context.Context, lock *program.Lock, tool, chain string) ([]string, error) {
	out, err := filter(ctx, lock, "", tool, "--wait", "30", "--table", "nat", "--list-rules", chain)
	if err != nil {
		return nil, err
	}
	switch out.Code {
	case 0:
		return strings.Split(strings.TrimSpace(string(out.Stdout)), "\n"), nil
	case 1, 3:
		return nil, nil
	}
	return nil, exitError(tool, out)
}

func filter(ctx context.Context, lock *program.Lock, stdin, tool string, args ...string) (program.Result, error) {
	path, err := program.Find(tool)
	if err != nil {
		return program.Result{}, err
	}
	out, err := program.Command{Path: path, Args: args, Stdin: []byte(stdin), Lock: lock}.Run(ctx)
	if err != nil {
		return out, fmt.Errorf("%s: %w", tool, err)
	}
	return out, nil
}

func exitError(tool string, out program.Result) error {
	return fmt.Errorf("%s: exit code %d: %s", tool, out.Code, out.Said())
}
