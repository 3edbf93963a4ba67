// SPDX-License-Identifier: Apache-2.0

package dump_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/cri-shim/cri-shim/pkg/sys/dump"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// limit is how long a test waits for the kernel to spoil a dump that is taken once. It takes milliseconds.
const limit = time.Minute

// TestWhole: while addresses come and go, every dump has all that stay. The same dumps taken once are interrupted.
func TestWhole(t *testing.T) {
	const stay = 2000
	inNetNS(t, func(change func(func() error)) error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for i := range stay {
			if err := netlink.AddrAdd(lo, address(t, 1+i)); err != nil {
				return err
			}
		}
		change(func() error {
			a := address(t, 60000)
			return errors.Join(netlink.AddrAdd(lo, a), netlink.AddrDel(lo, a))
		})
		list := func() ([]netlink.Addr, error) { return netlink.AddrList(lo, netlink.FAMILY_V4) }
		interrupted := 0
		for end := time.Now().Add(limit); interrupted == 0 && time.Now().Before(end); {
			if _, err := list(); errors.Is(err, netlink.ErrDumpInterrupted) {
				interrupted++
			}
			addrs, err := dump.Whole(list)
			if err != nil || len(addrs) < stay || len(addrs) > stay+1 {
				return fmt.Errorf("%d addresses, want %d or one more: %w", len(addrs), stay, err)
			}
		}
		if interrupted == 0 {
			t.Errorf("no dump was interrupted in %s: this shows nothing", limit)
		}
		return nil
	})
}

// TestRuleset: while rules in front of them come and go, every listing has all rules that stay. The same listing taken
// once misses some or has some twice, without an error.
func TestRuleset(t *testing.T) {
	const stay = 500
	inNetNS(t, func(change func(func() error)) error {
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "cri-test"}
		chain := &nftables.Chain{Name: "rules", Table: table}
		rule := func(name string) *nftables.Rule {
			return &nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}, UserData: []byte(name)}
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(table)
		c.AddChain(chain)
		for i := range stay {
			if c.AddRule(rule(strconv.Itoa(i))); i%100 == 99 {
				if err := c.Flush(); err != nil {
					return err
				}
			}
		}
		churn, err := nftables.New()
		if err != nil {
			return err
		}
		change(func() error {
			churn.InsertRule(rule("first"))
			if err := churn.Flush(); err != nil {
				return err
			}
			rules, err := churn.GetRules(table, chain)
			if err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond) // a ruleset that never stands still can't be listed
			return errors.Join(churn.DelRule(rules[0]), churn.Flush())
		})
		list := func() ([]*nftables.Rule, error) { return c.GetRules(table, chain) }
		right := func(rules []*nftables.Rule) bool {
			if len(rules) > stay && string(rules[0].UserData) == "first" {
				rules = rules[1:]
			}
			for i, r := range rules {
				if string(r.UserData) != strconv.Itoa(i) {
					return false
				}
			}
			return len(rules) == stay
		}
		wrong := 0
		for end := time.Now().Add(limit); wrong == 0 && time.Now().Before(end); {
			once, err := list()
			if err != nil {
				return err
			}
			if !right(once) {
				wrong++
			}
			if rules, err := dump.Ruleset(list); err != nil || !right(rules) {
				return fmt.Errorf("%d rules, want all %d in order: %w", len(rules), stay, err)
			}
		}
		if wrong == 0 {
			t.Errorf("no listing was wrong in %s: this shows nothing", limit)
		}
		return nil
	})
}

// TestGivesUp: a table that never stands still is an error, not a part of it; other errors are passed on at once.
func TestGivesUp(t *testing.T) {
	calls := 0
	_, err := dump.Whole(func() ([]int, error) { calls++; return []int{1}, netlink.ErrDumpInterrupted })
	if !errdefs.IsUnavailable(err) || calls != 100 {
		t.Errorf("%v after %d calls", err, calls)
	}
	_, err = dump.Whole(func() ([]int, error) { calls++; return nil, os.ErrPermission })
	if !errors.Is(err, os.ErrPermission) || calls != 101 {
		t.Errorf("%v after %d calls", err, calls)
	}
	calls = 0
	inNetNS(t, func(func(func() error)) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		_, err = dump.Ruleset(func() (int, error) {
			calls++
			c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: fmt.Sprint("cri-test-", calls)})
			return 0, c.Flush()
		})
		if !errdefs.IsUnavailable(err) || calls != 100 {
			t.Errorf("%v after %d calls", err, calls)
		}
		_, err = dump.Ruleset(func() (int, error) { return 0, os.ErrPermission })
		if !errors.Is(err, os.ErrPermission) {
			t.Error(err)
		}
		return nil
	})
}

// inNetNS runs f in a network namespace of its own, where change goes on for as long as f does.
func inNetNS(t *testing.T, f func(change func(func() error)) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ns := filepath.Join(t.TempDir(), "ns")
	if err := netns.New(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(ns); err != nil {
			t.Error(err)
		}
	})
	stop, ended := make(chan struct{}), make(chan error, 1)
	ended <- nil
	change := func(step func() error) {
		<-ended
		go func() {
			ended <- netns.In(ns, func() error {
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					if err := step(); err != nil {
						return err
					}
				}
			})
		}()
	}
	if err := netns.In(ns, func() error { return f(change) }); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error("change: ", err)
	}
}

func address(t *testing.T, n int) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(fmt.Sprintf("10.%d.%d.%d/32", n>>16, n>>8&0xff, n&0xff))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
