#!/usr/bin/env bash
# Runs the golden cases on a Cortex-M4 in QEMU and compares every line with the host's; then the processor's kernels
# against the portable ones, and the example itself.
# Needs the Rust target thumbv7em-none-eabihf and qemu-system-arm.
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
