#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On the GPU machine: run.sh ROOT GROUP... runs each group in its own process, on what unpack.sh
# made in ROOT. GROUP is one of probe.py's, segment_weights or native_segment. $OUT (the current
# folder unless set) gets probe.log and outcomes.jsonl; GROUP_TIMEOUT is in seconds, 120 unless
# set.
set -uo pipefail
root=$1
shift
export OUT=${OUT:-$PWD} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$root/site
cd "$(dirname "$0")/../../.." || exit
for group in "$@"; do
  case $group in
    segment_weights) command=(benchmarks.gpu.segment_weights "$root/plans") ;;
    native_segment) command=(benchmarks.gpu.native_segment "$root/kernels") ;;
    *) command=(benchmarks.gpu.probe.probe "$group" "$root") ;;
  esac
  echo "== $group"
  timeout "${GROUP_TIMEOUT:-120}" python3 -m "${command[@]}"
  echo "== $group: exit $? after ${SECONDS} s in all"
done 2>&1 | tee -a "$OUT/probe.log" | cut -c1-"${CUT:-400}"
