#!/usr/bin/env bash
# Rebuilds the bundled components, plugins/prebuilt/*.wasm, on a clean machine.
#
#   plugins/build.sh            with rustup's target if it is there or can be
#                               added, else with Debian's toolchain
#   plugins/build.sh --debian   with Debian's toolchain in any case
#
# Debian's packages are not installed, where they would be in rustup's way, but
# unpacked into a cache directory ($COGO_TOOLCHAIN_CACHE) and used from there.
# Needs a Rust toolchain for this machine, to build the host with.
set -euo pipefail

target=wasm32-unknown-unknown
plugins=(mock cogo-worker)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cache=${COGO_TOOLCHAIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cogo-host/debian-toolchain}

say() { echo "build.sh: $*" >&2; }

has_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) &&
        compgen -G "$libraries/libcore-*" >/dev/null
}

add_target() {
    command -v rustup >/dev/null || return 1
    say "adding $target with rustup"
    rustup target add "$target" >&2 && has_target
}

# Prints name=version of each package that Debian's toolchain needs and that
# this machine lacks.
debian_packages() {
    local llvm
    llvm=$(apt-cache depends rust-web-llvm | sed -n 's/.*Depends: llvm-\([0-9]*\)$/\1/p' | head -n 1)
    [ -n "$llvm" ] || return 1
    apt-get install --simulate --no-install-recommends \
        rustc-web cargo-web rust-web-src libstd-rust-web-dev rust-web-llvm "lld-$llvm" |
        sed -n 's/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p'
}

unpack_debian() {
    local packages downloads
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
        say "there is neither rustup's $target nor apt; install one of them"
        return 1
    }
    if ! packages=$(debian_packages) || [ -z "$packages" ]; then
        say "apt knows no rustc-web; run apt-get update, or add $target with rustup"
        return 1
    fi
    if [ "$(cat "$cache/packages" 2>/dev/null)" = "$packages" ]; then
        return
    fi
    say "unpacking Debian's Rust toolchain into $cache"
    rm -rf "$cache"
    downloads=$cache/downloads
    mkdir -p "$downloads" "$cache/root"
    # shellcheck disable=SC2086 # one argument a line
    (cd "$downloads" && apt-get download $packages >&2)
    for package in "$downloads"/*.deb; do
        dpkg-deb --extract "$package" "$cache/root"
    done
    rm -rf "$downloads"
    echo "$packages" >"$cache/packages"
}

use_debian() {
    local usr=$cache/root/usr libraries
    unpack_debian || return 1
    libraries=$(find "$cache/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    export PATH=$usr/bin:$PATH
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    local linker
    linker=$(find "$usr/bin" -name 'wasm-ld-*' | head -n 1)
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker
    say "using $(rustc --version)"
}

# The host first: it is built with the toolchain of this machine.
say "building the host"
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --bin cogo-host
host=$(cargo metadata --no-deps --format-version 1 --manifest-path "$root/Cargo.toml" |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug/cogo-host

if [ "${1:-}" = --debian ]; then
    use_debian
elif ! has_target && ! add_target; then
    use_debian
fi

mkdir -p "$here/prebuilt"
for plugin in "${plugins[@]}"; do
    say "building $plugin"
    "$host" plugin build "$here/$plugin" --locked -o "$here/prebuilt/$plugin.wasm"
done
(cd "$here/prebuilt" && sha256sum -- *.wasm)
