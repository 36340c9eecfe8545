#!/usr/bin/env bash
# The C interface: the header is what cbindgen makes of the sources, the example and the tests compile without a warning
# and run, on this machine and on a Cortex-M4 in QEMU, and the example answers as the Rust example does.
# Needs cc, cbindgen, arm-none-eabi-gcc with newlib, qemu-system-arm, the Rust target thumbv7em-none-eabihf and the
# rustup component llvm-tools.
#
#   check.sh            check
#   check.sh --write    write include/forge.h anew first
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

M4=thumbv7em-none-eabihf
FILES=${CARGO_TARGET_DIR:-target}
STRICT=(-Wall -Wextra -Werror -pedantic -std=c99 -O2 -Iinclude)
LIBRARIES=(-lm -lpthread -ldl)
MODEL=tests/golden/call.forge
FULL=tests/golden/full.forge
TOOLS=tests/golden/tools.forge
THINKING=tests/golden/thinking.forge
PROMPT="dim the bedroom lights to 20"
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

die() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

header() { # file to write
  cbindgen --quiet --config include/cbindgen.toml --crate forge-runtime --output "$1"
}

header_is_current() {
  header "$OUT/forge.h"
  diff include/forge.h "$OUT/forge.h" || die "include/forge.h is not what the sources say: run examples/c/check.sh --write"
  # As C++ too.
  printf '#include "forge.h"\nint main() { return forge_version() == nullptr; }\n' |
    c++ -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c++ -
  printf '    include/forge.h: as cbindgen makes it\n'
}

# The same answer from C as from Rust; the tests, with the sanitisers watching the C side.
host() {
  local answer
  cargo build --locked --quiet --release -p forge-capi -p forge-embed
  cc "${STRICT[@]}" examples/c/main.c "$FILES/release/libforge.a" "${LIBRARIES[@]}" -o "$OUT/main"
  cc "${STRICT[@]}" examples/c/main.c -L"$FILES/release" -lforge "-Wl,-rpath,$(realpath "$FILES/release")" -o "$OUT/shared"
  cc "${STRICT[@]}" -g -fsanitize=address,undefined examples/c/test.c "$FILES/release/libforge.a" "${LIBRARIES[@]}" -o "$OUT/test"
  answer=$("$FILES/release/forge-embed" "$MODEL" "$PROMPT")
  [ -n "$answer" ] || die "the Rust example says nothing"
  for program in main shared; do
    [ "$("$OUT/$program" "$MODEL" "$PROMPT")" = "$answer" ] || die "$program answers differently from Rust"
  done
  "$OUT/test" "$MODEL" "$FULL" "$TOOLS" "$THINKING" || die "the tests in C fail"
  # Negative control: another model does not say what the tests want.
  ! "$OUT/test" "$FULL" "$FULL" "$TOOLS" "$THINKING" 2>"$OUT/control" || die "the tests in C notice nothing"
  grep -q 'replies\|strcmp' "$OUT/control" || die "the tests in C notice something else: $(cat "$OUT/control")"
  printf '    on this machine: %s\n' "$answer"
}

# The very same sources on a microcontroller, which reads its files from the debugger.
on_device() { # name, arguments ...
  local name=$1 args
  shift
  args=$(printf ', "%s"' "$name" "$@")
  arm-none-eabi-gcc -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16 "${STRICT[@]}" -Wno-pedantic "-DARGS=${args#, }" \
    --specs=rdimon.specs -nostartfiles -Wl,--gc-sections,--no-warn-rwx-segments,--no-warn-execstack -T examples/c/device.ld \
    examples/c/device.c "examples/c/$name.c" "$FILES/$M4/release/libforge.a" -o "$OUT/$name.elf"
  timeout 120 qemu-system-arm -cpu cortex-m4 -machine mps2-an386 -nographic \
    -semihosting-config enable=on,target=native -kernel "$OUT/$name.elf" >"$OUT/$name.txt" 2>&1 </dev/null ||
    die "$name fails on the device: $(cat "$OUT/$name.txt")"
}

device() {
  local tools found
  tools=$(rustc --print target-libdir)/../bin
  # One unit, so that what is not called is not linked.
  CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_PANIC=abort \
    cargo rustc --locked --quiet --release -p forge-capi --no-default-features --target "$M4" --crate-type staticlib
  on_device test "$MODEL" "$FULL" "$TOOLS" "$THINKING"
  on_device main "$MODEL" "$PROMPT"
  # Negative control: a test that fails on the device fails here.
  ! (on_device test "$FULL" "$FULL" "$TOOLS" "$THINKING") 2>"$OUT/control" || die "the tests notice nothing on the device"
  [ "$(cat "$OUT/main.txt")" = "$("$OUT/main" "$MODEL" "$PROMPT")" ] || die "the device answers differently"
  "$tools/llvm-nm" --demangle "$OUT/test.elf" >"$OUT/symbols"
  grep -q forge_reply "$OUT/symbols" || die "the device's program has no symbols"
  found=$(grep -E 'panicking|unwrap_failed|slice_index|core::fmt::(write|Formatter)|rust_begin_unwind' "$OUT/symbols" || true)
  [ -z "$found" ] || die "linked into the C program: $found"
  printf '    on a Cortex-M4: the same answer, the same tests, no panic linked\n'
}

[ "${1:-}" != --write ] || header include/forge.h
header_is_current
host
device
