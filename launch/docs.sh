#!/usr/bin/env bash
# Builds the documentation into build/docs; every warning is an error.
#
#   launch/docs.sh           needs no network once its packages are installed
#   launch/docs.sh FLAGS     what follows goes to sphinx-build (-E: from scratch)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

ensure_venv docs
cd "$repo"
# Cached doctrees would hide a warning of the last build.
JAX_PLATFORMS=cpu "$venv_python" -m sphinx -W --keep-going -E -q \
  -d build/doctrees "$@" docs build/docs
echo "build/docs/index.html"
