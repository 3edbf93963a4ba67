#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the pause ELF files for both architectures into OUT (default: beside
# the source); with --check it compares fresh ones with the committed ones and
# changes nothing. CC_AMD64 and CC_ARM64 name the compilers; Debian's
# gcc-x86-64-linux-gnu and gcc-aarch64-linux-gnu are what the committed files
# were made with.
set -eu
cd "$(dirname "$0")"
out=${1:-.}
if [ "$out" = --check ]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	"./${0##*/}" "$out"
	cmp pause_amd64 "$out/pause_amd64"
	cmp pause_arm64 "$out/pause_arm64"
	exit
fi

flags="-Os -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-stack-protector \
-fno-asynchronous-unwind-tables -fno-unwind-tables -fomit-frame-pointer -fcf-protection=none -fno-ident \
-nostdlib -static -no-pie -s -Wl,-n -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -Wl,-z,max-page-size=4096"

build() { # build ARCH COMPILER EXTRA-FLAGS
	cc=$2
	arch=$1
	shift 2
	# shellcheck disable=SC2086 # the flags are a list
	"$cc" $flags "$@" -x c pause.c -o "$out/pause_$arch"
	chmod 0755 "$out/pause_$arch"
}

build amd64 "${CC_AMD64:-x86_64-linux-gnu-gcc}" -mgeneral-regs-only
flags=$(printf %s "$flags" | sed 's/-fcf-protection=none//')
build arm64 "${CC_ARM64:-aarch64-linux-gnu-gcc}" -mgeneral-regs-only -mbranch-protection=none
