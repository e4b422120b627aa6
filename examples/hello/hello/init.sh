#!/bin/sh
# The entry: runs every executable of init.d in order, the way images made by Aquarium Bait start.
set -eu
cd "$(dirname "$0")"
for part in init.d/*; do
    [ -x "$part" ] || continue
    echo "== $part"
    "./$part"
done
