#!/usr/bin/env bash
# Checks the style and the types, then runs the tests.
#
#   launch/test.sh                     all but the tests marked `long`
#   launch/test.sh --all               the long ones too, in programs as users run them
#   launch/test.sh tests/core -k name  what follows goes to pytest (-n 0: one process)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

which=(-m 'not long')
if [[ "${1:-}" == --all ]]; then
  which=()
  shift
else
  # Compilation dominates the tests, and takes a third less so.
  export JAX_DISABLE_MOST_OPTIMIZATIONS="${JAX_DISABLE_MOST_OPTIMIZATIONS:-1}"
fi

ensure_venv experiments test dev docs
cd "$repo"
"$venv_python" -m ruff check --quiet .
"$venv_python" -m ruff format --check --quiet .
"$venv_python" -m mypy
"${venv_python%/*}/shellcheck" launch/*.sh launch/slurm.sbatch .ci/run

# What was compiled once is kept.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$repo/.jax_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
mkdir -p "$JAX_COMPILATION_CACHE_DIR"
find "$JAX_COMPILATION_CACHE_DIR" -type f -mtime +14 -delete

exec "$venv_python" -m pytest -n 2 --dist=worksteal ${which[@]+"${which[@]}"} "$@"
