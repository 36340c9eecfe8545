#!/usr/bin/env bash
# Runs the golden cases on a Cortex-M4 in QEMU and compares every line with the host's; then the processor's kernels
# against the portable ones, and the example itself; then counts instructions and memory.
# Needs the Rust target thumbv7em-none-eabihf and qemu-system-arm.
#
#   check.sh            check
#   check.sh --write    write what was counted to instructions.tsv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

GOLDEN=../../tests/golden/golden.tsv
DEVICE=(qemu-system-arm -cpu cortex-m4 -machine mps2-an386 -icount shift=0 -nographic
  -semihosting-config enable=on,target=native -kernel)
FILES=${CARGO_TARGET_DIR:-target}/thumbv7em-none-eabihf/release
MODEL=tests/golden/call.forge
PROMPT="dim the bedroom lights to 20"
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

# Output goes to a file: with a closed pipe QEMU would hang instead of ending.
device() { # program, file for its output
  timeout 60 "${DEVICE[@]}" "$FILES/$1" >"$2" 2>&1 </dev/null || {
    status=$?
    cat "$2" >&2
    printf 'error: %s ended with status %s on the device (124: more than 60 s)\n' "$1" "$status" >&2
    exit 1
  }
}

# What a token costs is measured on a model that has everything.
FORGE_MODEL=../../tests/golden/wide5x8.forge cargo build --locked --release --bin cost
device cost "$OUT/cost"
FORGE_MODEL=../../$MODEL cargo build --locked --release

device golden "$OUT/device.tsv"
cut -f1,4,5 "$GOLDEN" >"$OUT/host.tsv"
diff "$OUT/host.tsv" "$OUT/device.tsv" || {
  echo "error: the device and the host differ in the cases above (<: host, >: device)" >&2
  exit 1
}
printf '    %s golden cases: the same bits on the host and on a Cortex-M4\n' "$(wc -l <"$OUT/device.tsv")"

# Negative control: one bit changed in the comparison must be noticed.
sed '$ s/.$/x/' "$OUT/device.tsv" | diff -q "$OUT/host.tsv" - >/dev/null && {
  echo "error: the comparison notices nothing" >&2
  exit 1
}

# Kernels on random matrices; the program fails when they differ, or when nothing depends on the input.
device kernels "$OUT/kernels"
sed 's/^/    /' "$OUT/kernels" "$OUT/cost"

# The example itself says what the same model says on the host.
device forge-firmware "$OUT/example"
ANSWER=$(cd ../.. && cargo run --locked --quiet --release -p forge-embed -- "$MODEL" "$PROMPT")
printf '%s -> %s\n' "$PROMPT" "$ANSWER" | diff - <(tail -n +2 "$OUT/example")
sed 's/^/    /' "$OUT/example"

# Instructions a token and bytes of memory, exact and the same on every run: more than one part in 200 away from what is
# committed, either way, must be looked at and committed anew.
device instructions "$OUT/counted"
[ "${1:-}" != --write ] || cp "$OUT/counted" instructions.tsv
differing() { # file with what was counted
  join -t $'\t' <(sort instructions.tsv) <(sort "$1") |
    awk -F '\t' '{ off = $4 - $2; if (off < 0) off = -off } off * 200 > $2 || $3 != $5 { print }'
  join -t $'\t' -v 1 -v 2 <(sort instructions.tsv) <(sort "$1")
}
FOUND=$(differing "$OUT/counted")
[ -z "$FOUND" ] || {
  printf 'error: name, instructions and memory committed, and counted now:\n%s\n' "$FOUND" >&2
  printf 'hint: if the change is meant, run examples/firmware/check.sh --write\n' >&2
  exit 1
}

# Negative control: one instruction in a hundred more must be noticed.
awk -F '\t' -v OFS='\t' '{ $2 = int($2 * 1.01) + 1; print }' "$OUT/counted" >"$OUT/slower"
[ "$(differing "$OUT/slower" | wc -l)" = "$(wc -l <"$OUT/counted")" ] || {
  echo "error: the count of instructions notices nothing" >&2
  exit 1
}
awk -F '\t' '{ sum += $2 } END { printf "    %d cases: as many instructions and bytes as committed, %d instructions a token on average\n", NR, sum / NR }' "$OUT/counted"
