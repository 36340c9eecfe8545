#!/usr/bin/env bash
# Takes the inputs that fuzz/run.sh has found into the committed corpora: the fewest that still reach everything, the
# longest of them, which reach most, if there are more than LIMIT.
#
#   fuzz/minimise.sh [LIMIT]       default 21 for each target
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

limit=${1:-21}
[ -d bin ] || ./build.sh
for source in fuzz_targets/*.rs; do
  target=$(basename "$source" .rs)
  merged=$(mktemp -d)
  mkdir -p "corpus/$target" "found/$target"
  "bin/$target" -set_cover_merge=1 -max_len=2048 "$merged" "corpus/$target" "found/$target" >/dev/null 2>&1
  rm -r "corpus/$target" "found/$target"
  mkdir -p "corpus/$target"
  # Names are the hashes of the contents, so that the same inputs give the same files.
  find "$merged" -type f -printf '%s %f\n' | sort -rn | awk -v limit="$limit" 'NR <= limit' | while read -r _ name; do
    mv "$merged/$name" "corpus/$target/"
  done
  rm -r "$merged"
  echo "$target: $(find "corpus/$target" -type f | wc -l) inputs, $(du -sb "corpus/$target" | cut -f1) bytes"
done
