// SPDX-License-Identifier: Apache-2.0

// Package identity finds out as which user and groups a container runs, from its security context and from the
// /etc/passwd and /etc/group of its image.
//
// Images are not trusted: files are opened within the image's root, read up to a limit, in time linear to their size.
// What the request or the image has wrong is ErrInvalidArgument.
//
// The package knows nothing of user namespaces and checks no policy on who may be root.
package identity
