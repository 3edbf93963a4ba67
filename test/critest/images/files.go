// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func text(path, content string) ocilayout.File {
	return ocilayout.File{Path: path, Content: []byte(content)}
}

func folder(path string) ocilayout.File { return ocilayout.File{Path: path, Dir: true} }

// from takes files of the tree at root, each under the name it is asked for: links are resolved, within the tree.
func from(root string, names ...string) ([]ocilayout.File, error) {
	var files []ocilayout.File
	for _, name := range names {
		at, err := securejoin.SecureJoin(root, name)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
		files = append(files, ocilayout.File{Path: name, Mode: 0o755, Source: at})
	}
	return files, nil
}
