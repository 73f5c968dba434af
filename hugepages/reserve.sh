#!/usr/bin/env bash
# Reserves huge pages on every NUMA node, or on one. Shows what it would do; does it only with --apply.
# Idempotent: a node that has enough is left alone. Lasts until the next boot; says what undoes it.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: reserve.sh [--pages N] [--size 2M|1G] [--node K] [--dry-run | --apply]
  --pages N    pages each node should have (default 512: 1 GiB in pages of 2 MiB)
  --size       size of a page (default 2M)
  --node K     only this NUMA node (default: all)
  --dry-run    say what would change (the default)
  --apply      change it; needs root
Example: sudo hugepages/reserve.sh --pages 1024 --apply
TEXT
}

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

pages=512 size=2M node='*' apply=0
while (($#)); do
    case $1 in
    --pages | --size | --node)
        (($# >= 2)) || fail "$1 (command line): a value is missing; see --help" 2
        case $1 in
        --pages) pages=$2 ;;
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
[[ $pages =~ ^[0-9]{1,9}$ ]] || fail "--pages $pages (command line): not a number of pages; write it like 512" 2
pages=$((10#$pages))
[[ $node == '*' || $node =~ ^[0-9]{1,4}$ ]] || fail "--node $node (command line): not a node; write it like 0" 2
case $size in
2M) kib=2048 ;;
1G) kib=1048576 ;;
*) fail "--size $size (command line): no such size; write 2M or 1G" 2 ;;
esac

# Another root than /sys serves to try the script on a copy.
sys=${MAKO_SYSFS:-/sys}
shopt -s nullglob
# shellcheck disable=SC2206 # the star in $node is meant to be expanded
directories=("$sys"/devices/system/node/node$node/hugepages/"hugepages-${kib}kB")
# A kernel without NUMA has one pool.
if [[ $node == '*' ]] && ((!${#directories[@]})); then directories=("$sys"/kernel/mm/hugepages*/"hugepages-${kib}kB"); fi
((${#directories[@]})) || fail "$size pages (node $node): this kernel has none there; try another --size or --node"

short=0
for directory in "${directories[@]}"; do
    name=${directory%/hugepages/*}
    name=${name##*/}
    # What the node has free, or could have at once. All of it taken, the machine would stand still.
    meminfo=${directory%/hugepages/*}/meminfo
    if [[ -e $meminfo ]]; then
        most=$(awk -v kib="$kib" '{ sub(/^Node [0-9]+ /, "") } $1 == "MemTotal:" { all = $2 }
            $1 == "MemFree:" || $1 == "Inactive(file):" || $1 == "Active(file):" { free += $2 }
            END { printf "%d", (free > all / 16 ? free - all / 16 : 0) / kib }' "$meminfo")
    else
        most=$pages
    fi
    had=$(<"$directory/nr_hugepages")
    if ((had >= pages)); then
        echo "$name: has $had pages of $size, $pages wanted: nothing to do"
    elif ((pages - had > most)); then
        fail "--pages $pages ($name): it has $had pages of $size and memory for $most more; choose at most $((had + most)), or stop \
other programs" 2
    elif ((!apply)); then
        echo "$name: has $had pages of $size, would reserve $pages (run again with --apply)"
    else
        echo "$pages" 2>/dev/null >"$directory/nr_hugepages" ||
            fail "$directory/nr_hugepages ($name): cannot be written; run as root"
        now=$(<"$directory/nr_hugepages")
        only=
        [[ $name =~ ^node([0-9]+)$ ]] && only=" --node ${BASH_REMATCH[1]}"
        echo "$name: had $had pages of $size, has $now; undo: release.sh --size $size$only --keep $had --apply"
        # The kernel takes what memory it finds in one piece, and says nothing of the rest.
        ((now >= pages)) || short=1
    fi
done
if ((short)); then
    fail "fewer than $pages pages of $size ($sys): memory is in use or in pieces; stop other programs, run \
'echo 1 > /proc/sys/vm/compact_memory' and try again, or reserve at boot with the kernel argument hugepages=N"
fi
