#!/usr/bin/env bash
# Gives reserved huge pages back. Shows what it would do; does it only with --apply.
# Pages in use stay; run it again once their owner has ended. Idempotent. What reserve.sh did is undone by the
# command that it prints: pages that were there before are perhaps another program's.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: release.sh [--keep N] [--size 2M|1G] [--node K] [--dry-run | --apply]
  --keep N     pages each node is left with at least (default 0)
  --size       size of a page (default 2M)
  --node K     only this NUMA node (default: all)
  --dry-run    say what would change (the default)
  --apply      change it; needs root
Example: sudo hugepages/release.sh --apply
TEXT
}

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

keep=0 size=2M node='*' apply=0
while (($#)); do
    case $1 in
    --keep | --size | --node)
        (($# >= 2)) || fail "$1 (command line): a value is missing; see --help" 2
        case $1 in
        --keep) keep=$2 ;;
        --size) size=$2 ;;
        --node) node=$2 ;;
        esac
        shift
        ;;
    --dry-run) apply=0 ;;
    --apply) apply=1 ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1 (command line): no such flag; see --help" 2 ;;
    esac
    shift
done
[[ $keep =~ ^[0-9]{1,9}$ ]] || fail "--keep $keep (command line): not a number of pages; write it like 512" 2
keep=$((10#$keep))
[[ $node == '*' || $node =~ ^[0-9]{1,4}$ ]] || fail "--node $node (command line): not a node; write it like 0" 2
case $size in
2M) kib=2048 ;;
1G) kib=1048576 ;;
*) fail "--size $size (command line): no such size; write 2M or 1G" 2 ;;
esac

sys=${MAKO_SYSFS:-/sys}
shopt -s nullglob
# shellcheck disable=SC2206 # the star in $node is meant to be expanded
directories=("$sys"/devices/system/node/node$node/hugepages/"hugepages-${kib}kB")
# A kernel without NUMA has one pool.
if [[ $node == '*' ]] && ((!${#directories[@]})); then directories=("$sys"/kernel/mm/hugepages*/"hugepages-${kib}kB"); fi
((${#directories[@]})) || fail "$size pages (node $node): this kernel has none there; try another --size or --node"

for directory in "${directories[@]}"; do
    name=${directory%/hugepages/*}
    name=${name##*/}
    had=$(<"$directory/nr_hugepages")
    free=$(<"$directory/free_hugepages")
    used=$((had - free))
    left=$((used > keep ? used : keep))
    if ((had <= left)); then
        echo "$name: has $had pages of $size, $used in use, $keep to keep: nothing to do"
    elif ((!apply)); then
        echo "$name: has $had pages of $size, $used in use, would release $((had - left)) (run again with --apply)"
    else
        echo "$left" 2>/dev/null >"$directory/nr_hugepages" ||
            fail "$directory/nr_hugepages ($name): cannot be written; run as root"
        echo "$name: had $had pages of $size, has $(<"$directory/nr_hugepages")"
    fi
done
