#!/bin/sh
# The disk of the label: a file system of its own, of the size that the label gives it, with the second image on it.
set -eu
df -Ph "$WORKSPACE" | awk 'NR == 2 { print "The disk has " $2 }'
"$WORKSPACE/bin/greet" "$GREETING_TEXT"
date > "$WORKSPACE/was-here"
