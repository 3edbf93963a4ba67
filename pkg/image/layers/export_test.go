// SPDX-License-Identifier: Apache-2.0

package layers

import (
	"archive/tar"
	"context"
	"io"
)

// Implied are the directories that a layer of these entries has without saying so.
func Implied(entries []*tar.Header) ([]string, error) {
	t := newLayerTree()
	for _, h := range entries {
		if _, err := t.see(h); err != nil {
			return nil, err
		}
	}
	return t.implied(), nil
}

// Extract unpacks a layer, packed or not, as the lowest one.
func Extract(ctx context.Context, dir string, layer io.Reader) error {
	tar, err := Decompress(layer)
	if err != nil {
		return err
	}
	defer tar.Close()
	tree, err := extract(ctx, dir, nil, tar)
	if err == nil {
		_ = tree.implied()
	}
	return err
}
