#!/usr/bin/env bash
# Builds forge-wasm/pkg: the WebAssembly module and wasm-bindgen's glue for it.
#
# Needs the Rust target wasm32-unknown-unknown. Uses the wasm-bindgen on PATH when it is of the version that
# Cargo.lock names (they must match exactly), and installs that version into a cache of its own otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=$(awk '$0 == "name = \"wasm-bindgen\"" { getline; gsub(/[^0-9.]/, ""); print; exit }' Cargo.lock)
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/forge-tools/wasm-bindgen-$VERSION
TARGET=${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown

BINDGEN=$(command -v wasm-bindgen || true)
if [ -z "$BINDGEN" ] || [ "$("$BINDGEN" --version)" != "wasm-bindgen $VERSION" ]; then
  BINDGEN=$TOOLS/bin/wasm-bindgen
fi
if [ ! -x "$BINDGEN" ]; then
  printf '    installing wasm-bindgen-cli %s (cargo install, into %s)\n' "$VERSION" "$TOOLS"
  # Unoptimised: it runs for a moment on a small module, but takes minutes to compile with optimisation.
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug wasm-bindgen-cli --version "$VERSION" --locked --root "$TOOLS"
fi

cargo build --locked --profile wasm --package forge-wasm --target wasm32-unknown-unknown
rm -rf forge-wasm/pkg
"$BINDGEN" --target web --remove-name-section --remove-producers-section --out-dir forge-wasm/pkg "$TARGET/wasm/forge_wasm.wasm"
printf '    forge-wasm/pkg/forge_wasm_bg.wasm: %s bytes, %s gzipped\n' \
  "$(wc -c <forge-wasm/pkg/forge_wasm_bg.wasm)" "$(gzip -9c forge-wasm/pkg/forge_wasm_bg.wasm | wc -c)"
