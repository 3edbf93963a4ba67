// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/nri/pkg/adaptation"
)

// libraryLog takes the library's lines. It says at Info what is news to its authors only.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) write(ctx context.Context, level slog.Level, format string, args []any) {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, adaptation.ErrWasmDisabled) {
			level = slog.LevelDebug // how we were built is no error
		}
	}
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, fmt.Sprintf("nri: "+format, args...))
	}
}

// Debugf logs at Debug.
func (l libraryLog) Debugf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}

// Infof logs at Debug.
func (l libraryLog) Infof(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}

// Warnf logs at Warn.
func (l libraryLog) Warnf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelWarn, format, args)
}

// Errorf logs at Error.
func (l libraryLog) Errorf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelError, format, args)
}
