// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/container"
	"github.com/cri-shim/cri-shim/pkg/monitor/fdstore"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// TestFailedRecoveryForgetsNothing: what the service manager's store has is for
// the monitor that is started next. Forgetting closes as well.
func TestFailedRecoveryForgetsNothing(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := container.NewSet(container.Node{Dir: filepath.Join(t.TempDir(), "missing"), Log: slog.New(slog.DiscardHandler), Store: new(fdstore.Store)})
	if err := s.Recover(map[string]map[wire.FDKind]int{"c": {wire.Stdout: fd}}); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("recover:", err)
	}
	if err := unix.Close(fd); err != nil {
		t.Error("descriptor of a container that was not taken over:", err)
	}
}
