// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

const annotationLimit = 32 << 10 // bytes of keys and values that are shown of one image

// ShownAnnotations returns as many of an image's annotations as fit into annotationLimit, the shortest first, and how
// many don't.
func ShownAnnotations(all map[string]string) (shown map[string]string, dropped int) {
	if AnnotationBytes(all) <= annotationLimit {
		return all, 0
	}
	keys := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a)+len(all[a]), len(b)+len(all[b])), strings.Compare(a, b))
	})
	shown = map[string]string{}
	left := annotationLimit
	for _, k := range keys {
		if left -= len(k) + len(all[k]); left < 0 {
			break
		}
		shown[k] = all[k]
	}
	return shown, len(all) - len(shown)
}

// AnnotationBytes is what keys and values take.
func AnnotationBytes(all map[string]string) int {
	n := 0
	for k, v := range all {
		n += len(k) + len(v)
	}
	return n
}
