#!/usr/bin/env bash
# Looks at what is linked into programs that use the runtime on devices: no panic, no formatting machinery, no
# allocation, and no more code than budgets.tsv says. Needs the Rust targets below and the rustup component llvm-tools.
#
#   check.sh            check
#   check.sh --write    write the sizes measured to budgets.tsv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

M4=thumbv7em-none-eabihf
TARGETS=("$M4" riscv32imac-unknown-none-elf thumbv6m-none-eabi)
FILES=${CARGO_TARGET_DIR:-target}
TOOLS=$(rustc --print target-libdir)/../bin
# Panics, what formats their messages, and allocation. A writer's own `write_char` formats nothing.
BANNED='panic|unwrap_failed|expect_failed|slice_index|slice_.*_fail|copy_from_slice|str_index|core::fmt::|core::cell::|__rust_alloc|__rg_alloc|alloc::'
ALLOWED='core::fmt::Write::write_(char|str)'
# A size may grow by one part in fifty before somebody must look at it.
SLACK=50

die() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

build() { # target, profile, options of cargo ...
  local target=$1 profile=$2
  shift 2
  cargo build --quiet --locked --target "$target" --profile "$profile" "$@"
}

program() { # target, profile, name
  printf '%s/%s/%s/%s' "$FILES" "$1" "$2" "$3"
}

banned() { # program
  "$TOOLS/llvm-nm" --demangle "$1" | grep -E "$BANNED" | grep -vE "$ALLOWED" || true
}

panic_free() { # target, profile
  local program found
  program=$(program "$1" "$2" panic_free)
  # A program without symbols, or from which everything was removed, proves nothing.
  for used in Matrix::decode_row Engine::forward call::render; do
    "$TOOLS/llvm-nm" --demangle "$program" | grep -c "$used" >/dev/null || die "$program has no symbol of $used"
  done
  found=$(banned "$program")
  [ -z "$found" ] || die "linked into $program:
$found"
  printf '    %s, %s: no panic, no formatting, no allocation\n' "$1" "$2"
}

# The control must be found: with it the same program holds what it must not.
control() { # feature, what must be found
  build "$M4" release --bin panic_free --features "$1"
  banned "$(program "$M4" release panic_free)" | grep -q "$2" || die "the check does not notice $1"
  printf '    %s: noticed\n' "$1"
}

code() { # profile, name, codecs
  build "$M4" "$1" --bin "$2" --no-default-features --features "$3"
  "$TOOLS/llvm-size" -A "$(program "$M4" "$1" "$2")" | awk '$1 == ".text" { print $2 }'
}

sizes() { # of every program with the codecs it is measured with
  local profile
  for profile in small release; do
    for program in minimal:ternary2b,int8 minimal:codecs,titans full:codecs,titans full:codecs,titans,globals; do
      printf '%s\t%s\t%s\t%s\n' "$profile" "${program%:*}" "${program#*:}" "$(code "$profile" "${program%:*}" "${program#*:}")"
    done
  done
}

within_budgets() {
  local profile name codecs budget size
  while IFS=$'\t' read -r profile name codecs budget; do
    size=$(code "$profile" "$name" "$codecs")
    [ "$size" -gt 1000 ] || die "$name has $size bytes of code: nothing was linked"
    [ "$size" -le $((budget + budget / SLACK)) ] ||
      die "$name ($profile, $codecs) has $size bytes of code, $budget are committed in budgets.tsv"
    printf '    %s, %s, %s: %s bytes of code (committed: %s)\n' "$name" "$profile" "$codecs" "$size" "$budget"
  done <budgets.tsv
}

# Codecs that are not asked for must not be linked; with all of them, the same look must find them.
left_out() {
  local decoders='codec::(seedlm|vptq|hyper|rans|sparse)::'
  code small minimal ternary2b,int8 >/dev/null
  ! "$TOOLS/llvm-nm" --demangle "$(program "$M4" small minimal)" | grep -E "$decoders" ||
    die "minimal is built with two codecs and has others linked"
  code small minimal codecs,titans >/dev/null
  "$TOOLS/llvm-nm" --demangle "$(program "$M4" small minimal)" | grep -cE "$decoders" >/dev/null ||
    die "the check for left-out codecs does not notice them"
}

for feature in panic-control:panicking format-control:core::fmt; do
  control "${feature%%:*}" "${feature#*:}"
done
build "$M4" small
for target in "${TARGETS[@]}"; do
  build "$target" release
  panic_free "$target" release
done
panic_free "$M4" small
left_out
[ "${1:-}" != --write ] || sizes >budgets.tsv
within_budgets
