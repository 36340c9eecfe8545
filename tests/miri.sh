#!/usr/bin/env bash
# Interprets the tests of the device crates under Miri, which reports undefined behaviour: the parser, every codec,
# tokenizer and tools, the portable kernels and the sessions on them, the sampler, files from their bytes to sampled and
# constrained text; then the kernels of SSE4.1. (Those of AVX2 also want F16C, which Miri lacks.) Tests that only repeat
# the same code many times are left out or shortened.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# No isolation: the tests read golden files and their numbers of rounds.
export MIRIFLAGS="-Zmiri-symbolic-alignment-check -Zmiri-strict-provenance -Zmiri-disable-isolation"
export PROPTEST_CASES=2 FORGE_FUZZ_ROUNDS=2 FORGE_CASES=8
export CARGO_TARGET_DIR=target/miri
# Under Miri a processor has what the program is compiled for; not `native`, as .cargo/config.toml says.
[ "$(uname -m)" != x86_64 ] || export RUSTFLAGS="-Ctarget-cpu=x86-64"

miri() { # package, test programs, then what goes to them
  local package=$1 programs=$2
  shift 2
  # shellcheck disable=SC2086 # the programs are words
  cargo +nightly miri test --quiet --locked -p "$package" $programs -- "$@" 2>&1 | grep -v 'Miri does not support opt'
}

miri forge-formats --lib --skip full_period --skip winding_covers
miri forge-formats "--test codecs" quantisation worked_bytes payloads_of_the_wrong accessors
miri forge-formats "--test search_codecs" payloads_of_ones
miri forge-formats "--test tokenizer" lookups worked_bytes pieces_of_text
miri forge-formats "--test tools" worked_bytes
miri forge-formats "--test file" header_faults what_is_written verify_names
miri forge-runtime --lib special_points sums
miri forge-runtime "--test equal_bits" products float_operations
miri forge-runtime "--test kernels" zero_and_tiny need_a_search
miri forge-runtime "--test sampler" greedy repetition the_stream
miri forge-runtime "--test text" calls_become a_repeated_slot what_is_no_call characters_may
miri forge-runtime "--test forward" tokens_outside feeding_equals
miri forge-runtime "--test end_to_end"
if [ "$(uname -m)" = x86_64 ]; then
  RUSTFLAGS="-Ctarget-cpu=x86-64 -Ctarget-feature=+ssse3,+sse4.1" CARGO_TARGET_DIR=target/miri/sse41 \
    miri forge-runtime "--test equal_bits" products float_operations
else
  echo "the kernels of SSE4.1 are left out: this is no x86-64"
fi
