#!/usr/bin/env bash
# Plants bugs in a copy of the device crates, one at a time: drops a check of the parser, of a codec or of the
# tokenizer, and expects the tests to notice. Prints a line a bug; fails when one goes unnoticed.
#
#   tests/mutants.sh [NAME…]       default: all of them
#
# A bug is a Perl substitution that must change its file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# name | file | substitution
BUGS='
magic|formats/src/header.rs|s/if \*magic != MAGIC/if false/
header-crc|formats/src/header.rs|s/if u32::from_le_bytes\(field\(raw, 60\)\) != crc32\(&field::<60>\(raw, 0\)\)/if false/
features|formats/src/header.rs|s/if header\.features & !FEATURES != 0[^{]*/if false /
reserved|formats/src/header.rs|s/if field::<24>\(raw, 36\) != \[0; 24\]/if false/
manifest-length|formats/src/header.rs|s/if manifest_len > MANIFEST_MAX/if false/
data-offset|formats/src/header.rs|s/!= Some\(self\.data_offset as usize\)/> Some(self.data_offset as usize)/
file-length|formats/src/header.rs|s/core::cmp::Ordering::Less => Err\(Error::Trailing\)/core::cmp::Ordering::Less => Ok(())/
manifest-crc|formats/src/header.rs|s/if crc32\(manifest\) != self\.manifest_crc/if false/
gap-is-zero|formats/src/header.rs|s/if gap\.iter\(\)\.any\(\|b\| \*b != 0\)/if false/
canonical-manifest|formats/src/manifest.rs|s/if \*canonical != \*used/if false/
config|formats/src/file.rs|s/head\.config\.validate\(\)\?;//
heads-divide|formats/src/config.rs|s/ && self\.heads\.is_multiple_of\(self\.kv_heads\)//
even-heads|formats/src/config.rs|s/ && self\.head_dim\.is_multiple_of\(2\)//
section-start|formats/src/file.rs|s/if \(section\.offset64 as usize\)\.checked_mul\(ALIGN\) != Some\(start\)/if false/
section-padding|formats/src/file.rs|s/if self\.data\.get\(self\.end\.\.start\)\.ok_or\(Error::Layout\)\?\.iter\(\)\.any\(\|b\| \*b != 0\)/if false/
tensor-shape|formats/src/file.rs|s/\(\*r, \*l, \*s\) == \(role, layer, shape\)/(*r, *l) == (role, layer)/
codec-allowed|formats/src/file.rs|s/ && codec\.allowed\(role\.kind\(\)\)//
payload|formats/src/file.rs|s/Matrix::new\(\*codec, shape, payload\)\.map\(\|_\| \(\)\)/Ok(())/
vocabulary|formats/src/file.rs|s/if tokenizer\.vocab\(\) != head\.config\.vocab/if false/
extra-order|formats/src/file.rs|s/Content::Extra \{ tag \} if last < Some\(tag\)/Content::Extra { tag } if true/
manifest-end|formats/src/file.rs|s/if !self\.sections\.records\.is_empty\(\)/if false/
data-end|formats/src/file.rs|s/if self\.end != self\.data\.len\(\)/if false/
payload-length|formats/src/codec/mod.rs|s/payload_len\(codec, shape\) (!=|==) Some\(payload\.len\(\) as u64\)/payload_len(codec, shape) $1 payload_len(codec, shape)/
finite-floats|formats/src/codec/float.rs|s/if finite \{ Ok/if true { Ok/
scales|formats/src/codec/mod.rs|s/u16::from_le_bytes\(\*b\) < 0x7C00/true/
int8-minimum|formats/src/codec/int8.rs|s/body\.contains\(&0x80\) \|\| //
trits|formats/src/codec/ternary.rs|s/body\.iter\(\)\.all\(\|b\| packing\.valid\(\*b\)\)/true/
trit-padding|formats/src/codec/ternary.rs|s/body\.chunks\(stride\)\.all\(padded\)/true/
seed-of-zero|formats/src/codec/seedlm.rs|s/if bits\.take\(u32::from\(p\.bits\)\) == 0/if bits.take(u32::from(p.bits)) > 70000/
vptq-scale|formats/src/codec/vptq.rs|s/\(scale\.is_finite\(\) && scale\.is_sign_positive\(\)\)/true/
vptq-padding|formats/src/codec/vptq.rs|s/if !used\.is_multiple_of\(8\) && /if false \&\& /
hyper-header|formats/src/codec/hyper.rs|s/ \|\| Winding::read\(payload\)\.is_none\(\)//
hyper-node|formats/src/codec/hyper.rs|s/if bits\.take\(width\) > largest/if bits.take(width) == u32::MAX/
token-order|formats/src/tokenizer.rs|s/if last >= Some\(pair\)/if false/
earlier-merges|formats/src/tokenizer.rs|s/if !ordinary\(left, id\) \|\| !ordinary\(right, id\)/if false/
token-length|formats/src/tokenizer.rs|s/token\.ok_or\(Error::Tokenizer\("token too long"\)\)\?;/let _ = token;/
special-twice|formats/src/tokenizer.rs|s/if later\.clone\(\)\.any\(\|other\| other == special\)/if false/
token-in-vocabulary|forge-runtime/src/engine.rs|s/>= self\.config\.vocab/> self.config.vocab/
'

copy=target/mutants/tree
mkdir -p "$copy"
# The device crates alone are a workspace: nothing else has to be built.
fresh() {
  rm -rf "$copy/formats" "$copy/forge-runtime"
  cp -r formats forge-runtime "$copy/"
  sed -e 's/^members = .*/members = ["formats", "forge-runtime"]/' -e '/^exclude = /d' Cargo.toml >"$copy/Cargo.toml"
  # Quick to build again, and with the arithmetic of a release.
  printf '\n[profile.mutants]\ninherits = "release"\nopt-level = 1\ndebug = false\nincremental = true\n' >>"$copy/Cargo.toml"
}
# Runs the tests until some fail, the quickest to build first; true when none do. A test that hangs has noticed too.
run_tests() {
  local step
  for step in "formats --test file" "formats --lib" "formats --test codecs" "formats --test search_codecs" \
    "formats --test tokenizer" "formats --test golden" "formats --test damage" "formats --test hostile" \
    "runtime --test forward" "runtime --test hostile"; do
    # shellcheck disable=SC2086 # the step is words
    (cd "$copy" && CARGO_TARGET_DIR=../build timeout 600 cargo test --profile mutants --quiet -p forge-$step) \
      >"target/mutants/$1.log" 2>&1 || { by=$step; return 1; }
  done
}

fresh
[ -e "$copy/Cargo.lock" ] || cp Cargo.lock "$copy/"
run_tests none || { echo "error: the tests fail without a planted bug; see target/mutants/none.log" >&2; exit 1; }
caught=0 missed=()
while IFS='|' read -r name file change; do
  [ -n "$name" ] || continue
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  perl -0pi -e "$change" "$copy/$file"
  if cmp -s "$file" "$copy/$file"; then
    echo "error: $name: $file has nothing to change" >&2
    exit 1
  fi
  begun=$SECONDS
  if run_tests "$name"; then
    missed+=("$name")
    echo "MISSED  $name"
  elif grep -q '^error: could not compile' "target/mutants/$name.log"; then
    echo "error: $name does not compile; see target/mutants/$name.log" >&2
    exit 1
  else
    caught=$((caught + 1))
    echo "caught  $name, by $by in $((SECONDS - begun)) s: $(grep -m1 -oP '^thread .\K[^ ]+(?=.* panicked)' "target/mutants/$name.log" || true)"
  fi
  cp "$file" "$copy/$file"
done <<<"$BUGS"
echo "$caught caught, ${#missed[@]} missed"
[ ${#missed[@]} -eq 0 ]
