#!/usr/bin/env bash
# Builds target/guests/javascript.wasm from plugin.js; does nothing if it is up
# to date. Needs node 20 or newer with npm; what else it needs it installs into
# target/guests/build/javascript, from the lock file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
build=$root/target/guests/build/javascript
output=$root/target/guests/javascript.wasm
stamp=$output.stamp
sources=(.npmrc build.sh componentize.js package.json package-lock.json plugin.js)

say() { echo "javascript: $*" >&2; }

for tool in node npm; do
    command -v "$tool" >/dev/null || {
        say "$tool is missing; install Node.js 20 or newer, which brings node and npm"
        exit 1
    }
done
if [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
    say "node $(node --version) is too old; install Node.js 20 or newer"
    exit 1
fi

# Of everything that goes into the component.
digest() {
    find "$root/wit" -name '*.wit' -type f | LC_ALL=C sort | (cd "$here" && node -e '
        const { readFileSync } = require("node:fs");
        const hash = require("node:crypto").createHash("sha256").update(process.version);
        const wit = readFileSync(0, "utf8").split("\n").filter(Boolean);
        for (const file of [...process.argv.slice(1), ...wit]) hash.update(readFileSync(file));
        console.log(hash.digest("hex"));' "${sources[@]}")
}

install() {
    cmp -s package-lock.json installed && return
    say "installing the tools of package-lock.json"
    rm -f installed
    npm ci --no-progress --loglevel=error >&2
    cp package-lock.json installed
}

mkdir -p "$build"
cd "$build"
# Two builds at once would install over each other.
if command -v flock >/dev/null; then
    exec 9>lock
    flock 9
fi

digest=$(digest)
if [ -f "$output" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ]; then
    say "target/guests/javascript.wasm is up to date"
    exit
fi
for source in "${sources[@]}"; do
    cp "$here/$source" .
done
install
say "building target/guests/javascript.wasm"
rm -f "$stamp"
node componentize.js "$root/wit" built.wasm
mv built.wasm "$output"
echo "$digest" >"$stamp"
