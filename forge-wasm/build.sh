#!/usr/bin/env bash
# Builds forge-wasm/pkg: three WebAssembly modules, of which forge.js takes the best that the engine knows, and
# wasm-bindgen's glue, the same for all three.
#
#   forge_wasm_bg.wasm        no SIMD
#   forge_wasm_simd128.wasm   SIMD128
#   forge_wasm_relaxed.wasm   SIMD128 and relaxed SIMD
#
# Needs the Rust target wasm32-unknown-unknown. Uses the wasm-bindgen on PATH when it is of the version that
# Cargo.lock names (they must match exactly), and installs that version into a cache of its own otherwise. Where
# binaryen's wasm-opt is on PATH, it makes the modules a little smaller.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=$(awk '$0 == "name = \"wasm-bindgen\"" { getline; gsub(/[^0-9.]/, ""); print; exit }' Cargo.lock)
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/forge-tools/wasm-bindgen-$VERSION
TARGET=${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown
PKG=forge-wasm/pkg

BINDGEN=$(command -v wasm-bindgen || true)
if [ -z "$BINDGEN" ] || [ "$("$BINDGEN" --version)" != "wasm-bindgen $VERSION" ]; then
  BINDGEN=$TOOLS/bin/wasm-bindgen
fi
if [ ! -x "$BINDGEN" ]; then
  printf '    installing wasm-bindgen-cli %s (cargo install, into %s)\n' "$VERSION" "$TOOLS"
  # Unoptimised: it runs for a moment on a small module, but takes minutes to compile with optimisation.
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug wasm-bindgen-cli --version "$VERSION" --locked --root "$TOOLS"
fi

module() { # name of the file, target features
  local out
  out=$(mktemp -d)
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=$2" \
    cargo build --locked --profile wasm --package forge-wasm --target wasm32-unknown-unknown
  "$BINDGEN" --target web --remove-name-section --remove-producers-section --out-dir "$out" "$TARGET/wasm/forge_wasm.wasm"
  if command -v wasm-opt >/dev/null; then
    wasm-opt -O3 --all-features -o "$out/forge_wasm_bg.wasm" "$out/forge_wasm_bg.wasm"
  fi
  mv "$out/forge_wasm_bg.wasm" "$PKG/$1.wasm"
  [ -e $PKG/forge_wasm.js ] || cp "$out"/* $PKG/
  # One glue serves all modules.
  cmp "$out/forge_wasm.js" $PKG/forge_wasm.js
  rm -r "$out"
  printf '    %s/%s.wasm: %s bytes, %s gzipped\n' $PKG "$1" "$(wc -c <"$PKG/$1.wasm")" "$(gzip -9c "$PKG/$1.wasm" | wc -c)"
}

rm -rf $PKG
mkdir $PKG
module forge_wasm_bg ""
module forge_wasm_simd128 +simd128
module forge_wasm_relaxed +simd128,+relaxed-simd
