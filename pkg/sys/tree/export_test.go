// SPDX-License-Identifier: Apache-2.0

package tree

import "context"

// DiskUsageWithLinks is DiskUsage that remembers so many files with several links.
func DiskUsageWithLinks(ctx context.Context, path string, links int) (Usage, error) {
	return diskUsage(ctx, path, &measure{knownLinks: links})
}
