#!/usr/bin/env bash
# Runs the notebooks of colabs/ from top to bottom and saves them with what they show.
#
#   launch/notebooks.sh                         all, in place; some three minutes
#   launch/notebooks.sh sparse_training         one of them
#   launch/notebooks.sh --out=DIR               saved elsewhere: only to see that they run
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

ensure_venv experiments test
cd "$repo"
# See launch/local.sh.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"
export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1073741824}"
exec "$venv_python" -m colabs.execute "$@"
