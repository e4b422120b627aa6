#!/bin/sh
# Type-checks the workspace for aarch64-apple-darwin on Debian, without a Mac and without Apple's SDK.
#
# The toolchain that builds the project may have no standard library for macOS. Debian's newest rustc comes with
# the library's source, from which cargo builds one (-Zbuild-std): good enough to check types, not to
# make a release with. The packages are unpacked below a directory of their own; nothing is installed.
#
#   contrib/darwin-check.sh [DIR]     DIR: where the packages go (600 MB), target/darwin unless you say otherwise
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mkdir -p "${1:-$top/target/darwin}" && cd "${1:-$top/target/darwin}" && pwd)
root=$dir/root
suite=${DARWIN_CHECK_SUITE:-sid}

command -v apt-get >/dev/null || { echo "needs apt-get and dpkg (Debian or Ubuntu)" >&2; exit 2; }

if [ ! -e "$root/.complete" ]; then
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/debs"
    : >"$dir/apt/status"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=${DARWIN_CHECK_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1)}
    [ -n "$mirror" ] || { echo "set DARWIN_CHECK_MIRROR to a mirror of Debian" >&2; exit 2; }
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$dir/apt/sources.list"
    apt() {
        # Its own lists and its own idea of what is installed: nothing. The host's apt is not touched.
        apt-get -q -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=- \
            -o Dir::State::lists="$dir/apt/lists" -o Dir::State::status="$dir/apt/status" \
            -o Dir::Cache="$dir/apt/cache" -o APT::Architecture=amd64 -o APT::Get::List-Cleanup=0 "$@"
    }
    apt update
    apt -y --no-install-recommends --download-only -o Dir::Cache::archives="$dir/debs" install rustc rust-src
    rm -rf "$root"
    mkdir -p "$root"
    for deb in "$dir"/debs/*.deb; do
        case ${deb##*/} in
        # What a C compiler brings is not needed to check types.
        gcc* | cpp* | binutils* | libc6-dev* | linux-libc-dev* | perl* | dpkg* | tar_* | lib*san* | cc1*) continue ;;
        esac
        dpkg -x "$deb" "$root"
    done
    : >"$root/.complete"
fi

loader=$(find "$root" -name 'ld-linux-x86-64.so.2' | head -1)
[ -n "$loader" ] || { echo "no loader below $root: is this amd64?" >&2; exit 2; }
cat >"$dir/rustc" <<END
#!/bin/sh
exec "$loader" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$root/usr/bin/rustc" "\$@" --sysroot "$root/usr"
END
chmod +x "$dir/rustc"
"$dir/rustc" --version

# Some dependencies compile C, and Apple's headers are not to be had. Nothing is linked in a type check, so
# their objects may be empty.
cat >"$dir/cc" <<'END'
#!/bin/sh
while [ $# -gt 0 ]; do
    if [ "$1" = -o ]; then : >"$2"; fi
    shift
done
END
printf '#!/bin/sh\nfor f; do case $f in *.a) : >"$f" ;; esac; done\n' >"$dir/ar"
chmod +x "$dir/cc" "$dir/ar"

cd "$top"
# A target directory of its own: another compiler would make cargo build everything again each time.
exec env CC_aarch64_apple_darwin="$dir/cc" CXX_aarch64_apple_darwin="$dir/cc" AR_aarch64_apple_darwin="$dir/ar" \
    RUSTC="$dir/rustc" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$dir/target" \
    cargo check -Zbuild-std --target aarch64-apple-darwin --package fish-native --package native-helper
