#!/usr/bin/env bash
# Says what huge pages each NUMA node has and what this shell may lock in memory. Changes nothing.
# Exit code 1 when a node has fewer free pages than wanted.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: check.sh [--pages N] [--size 2M|1G]
  --pages N    free pages each node should have (default 0: only show)
  --size       size of a page (default 2M)
Example: hugepages/check.sh --pages 512
TEXT
}

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

pages=0 size=2M
while (($#)); do
    case $1 in
    --pages | --size)
        (($# >= 2)) || fail "$1 (command line): a value is missing; see --help" 2
        case $1 in
        --pages) pages=$2 ;;
        --size) size=$2 ;;
        esac
        shift
        ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1 (command line): no such flag; see --help" 2 ;;
    esac
    shift
done
[[ $pages =~ ^[0-9]{1,9}$ ]] || fail "--pages $pages (command line): not a number of pages; write it like 512" 2
pages=$((10#$pages))
case $size in
2M) kib=2048 ;;
1G) kib=1048576 ;;
*) fail "--size $size (command line): no such size; write 2M or 1G" 2 ;;
esac

sys=${MAKO_SYSFS:-/sys}
shopt -s nullglob
directories=("$sys"/devices/system/node/node*/hugepages/"hugepages-${kib}kB")
# A kernel without NUMA has one pool.
if ((!${#directories[@]})); then directories=("$sys"/kernel/mm/hugepages*/"hugepages-${kib}kB"); fi
((${#directories[@]})) || fail "$size pages ($sys): this kernel has none; try another --size"

short=()
for directory in "${directories[@]}"; do
    name=${directory%/hugepages/*}
    name=${name##*/}
    free=$(<"$directory/free_hugepages")
    echo "$name: $(<"$directory/nr_hugepages") pages of $size, $free free"
    ((free >= pages)) || short+=("$name")
done
transparent=$sys/kernel/mm/transparent_hugepage/enabled
if [[ -e $transparent ]]; then echo "transparent huge pages: $(<"$transparent")"; fi
echo "memlock limit: $(ulimit -l) KiB"
if ((${#short[@]})); then
    fail "too few huge pages (${short[*]}): fewer than $pages of $size are free; run hugepages/reserve.sh --pages N --size $size \
--apply, where N counts those in use as well"
fi
