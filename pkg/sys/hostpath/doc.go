// SPDX-License-Identifier: Apache-2.0

// Package hostpath looks at paths of the host that users chose, such as
// the sources of mounts, without waiting for a file system that does not answer.
//
// A look ends with its context, the thread that looks when the file system
// answers; there is one such thread per path and question at most.
//
// The package decides no policy about paths and follows symbolic links, except
// where a function says that it does not.
package hostpath
