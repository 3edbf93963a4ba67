// SPDX-License-Identifier: Apache-2.0

package pause

import _ "embed" // the ELF file below

//go:embed pause_amd64
var elf []byte
