#!/bin/sh
# Replays the table of documented answers (tests/fake-macos/golden.tsv) on a true Mac and prints what differs.
#
# The driver is tested against an emulation of macOS' tools; this says where the emulation is wrong. It needs
# root and Full Disk Access for the terminal, makes one throw-away user (fish-zzzzzz) and one 64 MB disk image,
# and removes both again. Send its output with the version of macOS.
#
#   sudo contrib/macos-conformance.sh [golden.tsv]
set -u

table=${1:-$(dirname "$0")/../tests/fake-macos/golden.tsv}
user=fish-zzzzzz
uid=79999
# Nothing on a Mac; the emulated one is tested with this very script and has its files elsewhere.
root=${FISH_CONFORMANCE_ROOT:-}
image=$root/private/var/tmp/fish-conformance.sparseimage

fail() { echo "$1" >&2; exit 2; }
[ "$(uname)" = Darwin ] || fail "this compares with a true Mac; run it on one"
[ "$(id -u)" = 0 ] || fail "run it as root: sudo $0"
[ -r "$table" ] || fail "$table can't be read"
dscl . read "/Users/$user" >/dev/null 2>&1 && fail "there is a user $user; remove it first"
[ -z "$(dscl . search /Users UniqueID $uid)" ] || fail "uid $uid is taken"

work=$(mktemp -d) || exit 2
clean() {
    hdiutil detach "$root/Volumes/${user}_ws" -force >/dev/null 2>&1
    /bin/rm -rf "$image" "$root/Users/$user" "$work"
    while dscl . read /Groups/everyone GroupMembership 2>/dev/null | grep -qw "$user"; do
        dscl . delete /Groups/everyone GroupMembership "$user" || break
    done
    dscl . delete "/Users/$user" >/dev/null 2>&1
}
trap clean EXIT
trap 'exit 130' INT TERM

macos=$(sw_vers -productVersion)
tab=$(printf '\t')
# `\n` and `\t` become what they mean, and a final mark keeps trailing newlines.
expand() {
    printf '%s' "$1" | sed -e "s|@ROOT@|$root|g" -e "s|@UID@|$uid|g" -e "s|@MACOS@|$macos|g"
}
# A pattern: everything quoted but `*`.
differs() {
    wanted=$(expand "$1"; printf x)
    wanted=$(printf '%b' "${wanted%x}"; printf x)
    found=$(cat "$2"; printf x)
    pattern=$(printf '%s' "$wanted" | sed -e 's/[][\\?]/\\&/g')
    # shellcheck disable=SC2254 # a pattern is what it is
    case $found in $pattern) return 1 ;; *) return 0 ;; esac
}

echo "macOS $macos ($(uname -m))"
rows=0
bad=0
while IFS= read -r line; do
    case $line in '#'* | '') continue ;; esac
    rows=$((rows + 1))
    # Fields may be empty, so they are cut one by one.
    rest=$line
    who=${rest%%"$tab"*}; rest=${rest#*"$tab"}
    code=${rest%%"$tab"*}; rest=${rest#*"$tab"}
    out=${rest%%"$tab"*}; rest=${rest#*"$tab"}
    err=${rest%%"$tab"*}; rest=${rest#*"$tab"}
    set --
    while :; do
        word=${rest%%"$tab"*}
        set -- "$@" "$(expand "$word")"
        [ "$word" = "$rest" ] && break
        rest=${rest#*"$tab"}
    done
    if [ "$who" = user ]; then
        sudo -n -u nobody "$@" >"$work/out" 2>"$work/err" </dev/null
    else
        "$@" >"$work/out" 2>"$work/err" </dev/null
    fi
    got=$?
    why=
    [ "$got" = "$code" ] || why="exit code $got instead of $code"
    differs "$out" "$work/out" && why="$why; other output"
    differs "$err" "$work/err" && why="$why; other messages"
    if [ -n "$why" ]; then
        bad=$((bad + 1))
        echo "DIFFERS: $*: ${why#; }"
        sed 's/^/  out: /' "$work/out" | head -20
        sed 's/^/  err: /' "$work/err" | head -20
    fi
done <"$table"
echo "$rows answers compared, $bad differ"
[ "$bad" = 0 ]
