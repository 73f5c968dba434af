#!/usr/bin/env bash
# Decoders under libFuzzer, each for some seconds. Needs a C++ compiler; any Rust that builds Mako will do, because
# coverage is a pass of LLVM. What is found stays in target/fuzz/corpus, and what fails beside it.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: bench/fuzz.sh [--seconds N] [DECODER...]
  --seconds N    for how long each (default 60)
  DECODER        of testdata/fuzz; all of them when none is named
Example: bench/fuzz.sh --seconds 600 frame segment
TEXT
}

fail() {
    echo "error: $1" >&2
    exit 2
}

cd "$(dirname "$0")/.."
seconds=60 decoders=()
while (($#)); do
    case $1 in
    --seconds)
        (($# >= 2)) || fail "--seconds (command line): a value is missing; see --help"
        [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || fail "--seconds $2 (command line): not a number of seconds; write it like 600"
        seconds=$2
        shift
        ;;
    --help | -h) usage && exit 0 ;;
    -*) fail "$1 (command line): no such flag; see --help" ;;
    *)
        [[ -d testdata/fuzz/$1 ]] || fail "$1 (command line): no such decoder; there are $(ls testdata/fuzz | xargs)"
        decoders+=("$1")
        ;;
    esac
    shift
done
((${#decoders[@]})) || mapfile -t decoders < <(ls testdata/fuzz)
command -v c++ >/dev/null || fail "no C++ compiler, which libFuzzer is built with; apt-get install g++"

# With a target named, flags are for what runs there, and not for build scripts.
target=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module)
for coverage in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$coverage")
done
RUSTFLAGS="${flags[*]}" cargo build --locked --profile fuzz --features fuzz --bin mako-fuzz \
    --target "$target" --target-dir target/fuzz

for decoder in "${decoders[@]}"; do
    corpus=target/fuzz/corpus/$decoder
    mkdir -p "$corpus"
    log=target/fuzz/$decoder.log
    echo "$decoder for $seconds s, told in $log"
    if ! MAKO_FUZZ=$decoder "target/fuzz/$target/fuzz/mako-fuzz" -max_total_time="$seconds" -max_len=32768 \
        -rss_limit_mb=1024 -artifact_prefix="target/fuzz/$decoder-" "$corpus" "testdata/fuzz/$decoder" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        echo "error: $decoder fails on the input that $log names; keep a copy of it in testdata/fuzz/$decoder" >&2
        exit 1
    fi
    tail -n 1 "$log"
done
