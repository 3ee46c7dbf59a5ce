#!/usr/bin/env bash
# Rebuilds the bundled components, plugins/prebuilt/*.wasm, on a clean machine:
# with `cogo-host plugin build`, as any plugin. Needs a Rust toolchain for this
# machine, to build the host with.
set -euo pipefail

plugins=(mock cogo-worker)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

say() { echo "build.sh: $*" >&2; }

say "building the host"
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --bin cogo-host
host=$(cargo metadata --no-deps --format-version 1 --manifest-path "$root/Cargo.toml" |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug/cogo-host

"$here/toolchain"

mkdir -p "$here/prebuilt"
for plugin in "${plugins[@]}"; do
    say "building $plugin"
    "$host" plugin build "$here/$plugin" --locked -o "$here/prebuilt/$plugin.wasm"
done
(cd "$here/prebuilt" && sha256sum -- *.wasm)
