// SPDX-License-Identifier: Apache-2.0

// Command nnp prints its effective user. Installed set-uid root in an image, it shows whether a container's process may
// gain privileges by executing it.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
}
