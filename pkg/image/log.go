// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"io"
	"log/slog"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/cri-shim/cri-shim/pkg/image/registry"
)

// withLibraryLog hands containerd's libraries a logger that ends in ours. Only warnings and errors pass: below that
// they log request headers and addresses.
func withLibraryLog(ctx context.Context, l *slog.Logger) context.Context {
	hooked := &logrus.Logger{Out: io.Discard, Formatter: discardFormat{}, Hooks: logrus.LevelHooks{}, Level: logrus.WarnLevel}
	hooked.AddHook(logHook{l, slog.LevelWarn})
	return log.WithLogger(ctx, logrus.NewEntry(hooked))
}

type discardFormat struct{}

func (discardFormat) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

// quietLibraries takes what the libraries log without a context off stderr. It is about the machine more than about us
// (no fs-verity, say), so it becomes debug output. This is the one global that the package touches: their logger.
func quietLibraries(l *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logHook{l, slog.LevelDebug})
}

type logHook struct {
	log   *slog.Logger
	level slog.Level
}

func (logHook) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel} }

func (h logHook) Fire(e *logrus.Entry) error {
	args := make([]any, 0, 4)
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		args = append(args, "err", registry.Redact(err))
	}
	if h.level == slog.LevelDebug {
		h.log.Debug(e.Message, args...)
	} else {
		h.log.Warn(e.Message, args...)
	}
	return nil
}
