// SPDX-License-Identifier: Apache-2.0

package oci

// ValidateSysctls checks a pod's sysctls.
var ValidateSysctls = validateSysctls
