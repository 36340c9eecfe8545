#!/usr/bin/env bash
# Builds the fuzz targets into fuzz/bin or fuzz/bin-asan, with plain nightly cargo.
#
#   fuzz/build.sh                     fast: coverage counters only; they need nothing but glibc to run elsewhere
#   FORGE_FUZZ_ASAN=1 fuzz/build.sh   with AddressSanitizer and comparison tracing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, as far as the variant has it.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing"
if [ "${FORGE_FUZZ_ASAN:-0}" = 1 ]; then
  flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address"
  target_dir=target/asan out=bin-asan
else
  export CXXSTDLIB=static=stdc++
  flags="$flags -Lnative=$(dirname "$(c++ -print-file-name=libstdc++.a)") -Clink-arg=-static-libgcc"
  target_dir=target/fast out=bin
fi
RUSTFLAGS=$flags cargo +nightly build --locked --release --bins --target "$host" --target-dir "$target_dir"
rm -rf "$out"
mkdir "$out"
for source in fuzz_targets/*.rs; do
  name=$(basename "$source" .rs)
  cp "$target_dir/$host/release/$name" "$out/"
  strip "$out/$name"
done
git rev-parse --short=10 HEAD >"$out/COMMIT"
