// SPDX-License-Identifier: Apache-2.0

package leftover

import (
	"context"
	"errors"
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
	_, err = filter(ctx, lock, strings.Join(lines, "\n"), tool+"-restore", "--wait", "30", "--noflush")
	return true, err
}

// chainRules lists a chain of the nat table, its own declaration first; nil when there is no such chain.
func chainRules(ctx context.Context, lock *program.Lock, tool, chain string) ([]string, error) {
	out, err := filter(ctx, lock, "", tool, "--wait", "30", "--table", "nat", "--list-rules", chain)
	if errors.Is(err, errNoSuchRule) {
		return nil, nil
	}
	return strings.Split(strings.TrimSpace(out), "\n"), err
}

// errNoSuchRule is an iptables that has no such chain (1), or no such table in the kernel (3).
var errNoSuchRule = errors.New("no such chain")

func filter(ctx context.Context, lock *program.Lock, stdin, tool string, args ...string) (string, error) {
	path, err := program.Find(tool)
	if err != nil {
		return "", err
	}
	out, err := program.Command{Path: path, Args: args, Stdin: []byte(stdin), Lock: lock}.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", tool, err)
	}
	switch out.Code {
	case 0:
		return string(out.Stdout), nil
	case 1, 3:
		return "", fmt.Errorf("%s: %w: %s", tool, errNoSuchRule, out.Said())
	}
	return "", fmt.Errorf("%s: exit code %d: %s", tool, out.Code, out.Said())
}
