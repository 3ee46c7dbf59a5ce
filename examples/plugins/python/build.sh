#!/usr/bin/env bash
# Builds target/guests/python.wasm from app.py; does nothing if it is up to
# date. Needs python3 3.9 or newer with venv; what else it needs it installs
# into target/guests/build/python, from requirements.txt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
build=$root/target/guests/build/python
output=$root/target/guests/python.wasm
stamp=$output.stamp
sources=(app.py build.sh requirements.txt)

say() { echo "python: $*" >&2; }

command -v python3 >/dev/null || {
    say "python3 is missing; install Python 3.9 or newer"
    exit 1
}
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || {
    say "$(python3 --version) is too old; install Python 3.9 or newer"
    exit 1
}
python3 -c 'import ensurepip, venv' 2>/dev/null || {
    say "python3 has no venv; install it (Debian: apt-get install python3-venv)"
    exit 1
}

# Of everything that goes into the component.
digest() {
    find "$root/wit" -name '*.wit' -type f | LC_ALL=C sort | (cd "$here" && python3 -c '
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode())
for path in sys.argv[1:] + sys.stdin.read().splitlines():
    digest.update(pathlib.Path(path).read_bytes())
print(digest.hexdigest())' "${sources[@]}")
}

install() {
    cmp -s requirements.txt installed && return
    say "installing the tools of requirements.txt"
    rm -rf installed venv
    python3 -m venv venv
    venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --requirement requirements.txt >&2
    cp requirements.txt installed
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
    say "target/guests/python.wasm is up to date"
    exit
fi
for source in "${sources[@]}"; do
    cp "$here/$source" .
done
install
say "building target/guests/python.wasm"
rm -f "$stamp"
# Only app.py and Python's own library go in, so it is shown no site-packages.
mkdir -p site empty/lib/site-packages
cp app.py site/
VIRTUAL_ENV=$build/empty venv/bin/componentize-py --quiet \
    --wit-path "$root/wit" --world executor-plugin \
    componentize --python-path site --output built.wasm app
mv built.wasm "$output"
echo "$digest" >"$stamp"
