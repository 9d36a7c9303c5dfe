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
exec "$venv_python" "$@"
