#!/bin/sh
# Runs a command with a temporary folder of its own, and returns when the folder's last user is gone: private servers
# (src/local/) are stopped by their keepers when the process that started them ends, a moment after it.
set -u
tmp=$(mktemp -d "${TMPDIR:-/tmp}/outdial-run-XXXXXX") || exit 1
chmod 711 "$tmp" # root's servers run as other users
trap : INT TERM HUP # the command gets them too; what is left to do here is to wait for it and to clean up
TMPDIR=$tmp "$@"
status=$?
left=150
while [ "$left" -gt 0 ] && [ -n "$(find "$tmp" -mindepth 1 -maxdepth 1 -name 'outdial-*-*' 2>/dev/null)" ]; do
    left=$((left - 1))
    sleep 0.1
done
# A test that was killed may have left its file system there.
while read -r _ place _; do
    case $place in "$tmp"/*) umount "$place" ;; esac
done </proc/mounts
rm -rf -- "$tmp"
exit "$status"
