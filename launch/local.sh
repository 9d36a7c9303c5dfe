#!/usr/bin/env bash
# Runs an experiment on this machine, installing what it needs on the first call.
#
#   launch/local.sh                                  the main job, on built-in images
#   launch/local.sh --config=FILE ...                the main job with other flags
#   launch/local.sh experiments/x.py --flags ...     another experiment
#
# Paths are relative to the repository, wherever this is called from. The CPU is used
# unless JAXSPARSE_EXTRAS=cuda12 (or tpu) installs more; see launch/_venv.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

ensure_venv experiments
cd "$repo"
case "${1:--}" in
  -*) set -- experiments/classify.py "$@" ;;
esac
# Scripts import what lies beside them as `experiments.models` and the like.
export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
# XLA takes a step's temporary memory from malloc and gives it back. glibc hands large
# blocks back to the kernel, or maps them apart as soon as the heap is used up, so that
# each step faults every page in anew: up to half of a step's time, for some programs of
# a process and not for others. Kept on the heap, they cost nothing; the heap stays as
# large as it once was. One heap for all threads, because those of XLA's own threads hold
# 64 MB at most, and are given back when they are empty; of huge pages where the kernel
# offers them, which makes most steps some per cent faster. (Not glibc: no effect.)
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"
export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1073741824}"
exec "$venv_python" "$@"
