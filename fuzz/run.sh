#!/usr/bin/env bash
# Fuzzes a target and adds what was executed to the committed counter.
#
#   fuzz/run.sh TARGET SECONDS [JOBS]     TARGET is one of fuzz_targets, or `all` for each in turn
#
#   FORGE_FUZZ_RUNS=N     executions for each job, instead of stopping after SECONDS
#   FORGE_FUZZ_ASAN=1     with AddressSanitizer and comparison tracing: slower, finds inputs sooner
#   FORGE_FUZZ_BIN=DIR    run the programs in DIR (made by fuzz/build.sh) instead of building
#   FORGE_FUZZ_COUNT=F    the counter file; `-` prints the lines only
#
# Needs nightly Rust and no cargo-fuzz (`cargo +nightly fuzz run TARGET` works too, but counts nothing). New inputs
# are kept in fuzz/found/TARGET; fuzz/minimise.sh takes the worthwhile ones into the corpus. A crash ends with its
# input in fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

[ $# -ge 2 ] || { sed -n '2,13p' "$0" >&2; exit 2; }
wanted=$1 seconds=$2 jobs=${3:-1}
count=${FORGE_FUZZ_COUNT:-executions.tsv}

bin=${FORGE_FUZZ_BIN:-}
if [ -z "$bin" ]; then
  ./build.sh
  [ "${FORGE_FUZZ_ASAN:-0}" = 1 ] && bin=bin-asan || bin=bin
fi
commit=$(cat "$bin/COMMIT")

longest() { # of a target's inputs: long enough for all it distinguishes
  case $1 in
    parser) echo 2048 ;;
    structured) echo 192 ;;
    *) echo 320 ;;
  esac
}

fuzz() { # target
  local target=$1 status=0 pids=() job total=0 executed limit=(-max_total_time="$seconds")
  [ -z "${FORGE_FUZZ_RUNS:-}" ] || limit=(-runs="$FORGE_FUZZ_RUNS")
  mkdir -p "found/$target" "artifacts/$target" "corpus/$target"
  local logs
  logs=$(mktemp -d)
  local begun=$SECONDS
  # Every second job tells inputs apart by the branches they take alone, not by how often: faster.
  for job in $(seq "$jobs"); do
    "$bin/$target" "found/$target" "corpus/$target" "${limit[@]}" -max_len="$(longest "$target")" -seed=$((RANDOM + job)) \
      -use_counters=$((job % 2)) -timeout=10 -rss_limit_mb=2048 -reload=0 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
      >"$logs/$job" 2>&1 &
    pids+=($!)
  done
  for job in $(seq "$jobs"); do
    wait "${pids[$((job - 1))]}" || { status=1; tail -n 40 "$logs/$job" >&2; }
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$job")
    total=$((total + ${executed:-0}))
  done
  rm -r "$logs"
  local took=$((SECONDS - begun)) line
  [ "$took" -gt 0 ] || took=1
  line=$(printf '%s\t%s\t%s\t%s\t%s' "$target" "$total" "$((took * jobs))" "$commit" "$(date -u +%F)")
  echo "$line  ($((total / took / jobs)) a second and job)"
  [ "$count" = - ] || echo "$line" >>"$count"
  return "$status"
}

if [ "$wanted" = all ]; then
  targets=$(cd fuzz_targets && ls -- *.rs | sed 's/\.rs$//')
else
  targets=$wanted
fi
failed=()
for target in $targets; do
  fuzz "$target" || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "error: found a failure in: ${failed[*]}" >&2; exit 1; }
