#!/usr/bin/env bash
# Executes every target as often as a release asks for: the parser 10⁹ times, each other 10⁸ times.
#
#   fuzz/marathon.sh JOBS [TARGET…]       environment as for fuzz/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

[ $# -ge 1 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
jobs=$1
shift
[ $# -gt 0 ] || set -- $(cd fuzz_targets && ls -- *.rs | sed 's/\.rs$//')
if [ -z "${FORGE_FUZZ_BIN:-}" ]; then
  ./build.sh
  export FORGE_FUZZ_BIN=bin
fi
for target in "$@"; do
  [ "$target" = parser ] && wanted=1000000000 || wanted=100000000
  FORGE_FUZZ_RUNS=$((wanted / jobs + 1)) ./run.sh "$target" 0 "$jobs"
done
