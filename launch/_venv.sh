# shellcheck shell=bash
# Sourced by the launchers: a virtual environment that is made once and kept.
#
#   ensure_venv EXTRA...   makes $venv_python ready, or ends with one clear message.
#
# PYTHON            the interpreter to use (default: the newest of 3.13 to 3.11)
# JAXSPARSE_VENV    where the environment is (default: .venv in the repository)
# JAXSPARSE_EXTRAS  more extras of setup.py, such as cuda12
# JAXSPARSE_PYTHON  an interpreter that has all of it, as in a container or a cluster's
#                   own environment: it is used as it is, and nothing is installed

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="${JAXSPARSE_VENV:-$repo/.venv}"
venv_python="${JAXSPARSE_PYTHON:-$venv/bin/python}"
# This folder says that the environment is ours. In it, one file per installed extra
# holds the key of what was installed; `busy` says that an install has not ended.
marks="$venv/.jaxsparse"

_fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Prints the version of an interpreter that really runs and that can be used here.
_version_of() {
  "$1" -c '
import ensurepip, platform, sys, venv
if not (3, 11) <= sys.version_info[:2] <= (3, 13): sys.exit(1)
print(platform.python_version())' 2>/dev/null </dev/null
}

_find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    _version_of "$PYTHON" >/dev/null || _fail \
      "PYTHON=$PYTHON does not run, or is not Python 3.11 to 3.13, or lacks venv."
    echo "$PYTHON"
    return
  fi
  # A name on PATH may be a shim that only prints an error, so each one is run.
  for candidate in python3.13 python3.12 python3.11 python3 python; do
    if _version_of "$candidate" >/dev/null; then
      echo "$candidate"
      return
    fi
  done
  _fail 'found no Python 3.11, 3.12 or 3.13 (with its venv module) on PATH.' \
    'Install one (Debian: apt install python3 python3-venv) or set PYTHON=/its/path.'
}

# What an installed extra depends on: the interpreter, the place, the requirements.
_key() {
  {
    echo "$1 $repo $venv"
    cat "$repo/setup.py" "$repo/pyproject.toml" "$repo/constraints.txt"
    # What the kernels are built of; without the glob's match there are none to build.
    cat "$repo"/jaxsparse/native/csrc/*.{cc,h} 2>/dev/null || true
    grep -m1 '^__version__' "$repo/jaxsparse/__init__.py"
  } | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-32
}

# Whether the environment is whole, runs, and is of the interpreter asked for.
_usable() {
  [[ ! -e "$marks/busy" ]] && version="$(_version_of "$venv_python")" || return 1
  [[ -z "${PYTHON:-}" || "$version" == "$(_version_of "$PYTHON")" ]]
}

_ready() {
  local version key extra
  _usable || return 1
  key="$(_key "$version")"
  for extra in "$@"; do
    [[ -f "$marks/$extra" && "$(<"$marks/$extra")" == "$key" ]] || return 1
  done
}

_make_venv() {
  local python
  python="$(_find_python)" || exit 1
  # Never delete an environment that someone else made.
  [[ ! -e "$venv" || -d "$marks" ]] ||
    _fail "$venv does not work, and no launcher made it: remove it by hand."
  rm -rf "$venv"
  mkdir -p "$marks"
  : >"$marks/busy"
  echo "Making ${venv##*/} with Python $(_version_of "$python") ..." >&2
  "$python" -m venv "$venv" >"$marks/log" 2>&1 </dev/null || {
    tail -n 20 "$marks/log" >&2
    _fail "could not make $venv."
  }
}

_install() {
  local version names extra key
  _usable || _make_venv
  mkdir -p "$marks"
  : >"$marks/busy"
  names="$(IFS=,; echo "$*")"
  echo "Installing jaxsparse[$names]; the first time takes a minute or two ..." >&2
  "$venv_python" -m pip install --disable-pip-version-check --no-input \
    --constraint "$repo/constraints.txt" --editable "${repo}[$names]" \
    >"$marks/log" 2>&1 </dev/null || {
    tail -n 30 "$marks/log" >&2
    rm -f "$marks/busy" # It ended by itself, and pip undoes what it began.
    _fail "pip could not install jaxsparse[$names]; its whole log is $marks/log."
  }
  # Written last: an install that is killed on the way is made anew.
  version="$(_version_of "$venv_python")"
  key="$(_key "$version")"
  for extra in "$@"; do echo "$key" >"$marks/$extra"; done
  rm -f "$marks/busy"
}

ensure_venv() {
  local more="${JAXSPARSE_EXTRAS:-}"
  if [[ -n "${JAXSPARSE_PYTHON:-}" ]]; then
    command -v "$venv_python" >/dev/null ||
      _fail "JAXSPARSE_PYTHON=$venv_python is not there."
    return
  fi
  # shellcheck disable=SC2086  # Split on purpose: "a,b" or "a b".
  set -- "$@" ${more//,/ }
  _ready "$@" && return
  # Two launchers may start at once. The lock is on a file that is there anyway, and
  # it ends with the processes that hold it.
  (
    if command -v flock >/dev/null && ! flock -n 9; then
      echo 'Waiting for another install to end ...' >&2
      flock 9
    fi
    _ready "$@" || _install "$@"
  ) 9<"$repo/setup.py"
}
