// SPDX-License-Identifier: Apache-2.0

package stream_test

import "os"

func openTerminal(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR, 0) }
