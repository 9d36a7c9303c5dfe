#!/usr/bin/env bash
# Runs the tests of the kernels under AddressSanitizer with UndefinedBehaviorSanitizer,
# and once more under ThreadSanitizer. Needs GCC on Linux; takes some four minutes.
#
#   launch/sanitize.sh                    the tests of native and sparse
#   launch/sanitize.sh tests/sparse -k x  what follows goes to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

if [[ "$(uname -s)" != Linux ]] || ! command -v g++ >/dev/null; then
  echo 'Sanitizers: left out, they need GCC on Linux.'
  exit
fi
ensure_venv experiments test dev
# What runs in plain jnp needs no sanitizer.
(($#)) || set -- tests/native tests/sparse -k 'not reference'
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$repo/.jax_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

# In copies: the library that is in use stays as it is.
copies="$(mktemp -d)"
trap 'rm -rf "$copies"' EXIT

_build() { # NAME FLAGS
  mkdir "$copies/$1"
  cp -r "$repo"/{setup.py,pyproject.toml,README.md,jaxsparse,tests} "$copies/$1"
  cd "$copies/$1"
  rm -f jaxsparse/native/csrc/*.so
  CC=gcc CXX=g++ CFLAGS="$2" LDFLAGS="$2" \
    "$venv_python" setup.py --quiet build_ext --inplace >build.log 2>&1 || true
  # The extension is optional, so that a failed build is no error of setup.py.
  compgen -G 'jaxsparse/native/csrc/*.so' >/dev/null ||
    { tail -n 30 build.log >&2 && _fail "the kernels do not build with $2"; }
}

_library() { g++ -print-file-name="lib$1.so"; }

_test() { # NAME PRELOAD COMMAND... with the arguments of pytest
  echo "$1:"
  cd "$copies/$1"
  PYTHONPATH="$PWD" LD_PRELOAD="$2" "${@:3}"
}

echo 'Building the kernels with sanitizers ...'
# Vectors are read through pointers to floats, which stand anywhere.
_build address '-fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover=all' &
address=$!
_build thread -fsanitize=thread &
wait "$address"
wait $!

# libstdc++ is named too: the exceptions of XLA need the real functions.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
_test address "$(_library asan):$(_library ubsan):$(_library stdc++)" \
  "$venv_python" -m pytest -q -p no:cacheprovider "$@"

# XLA itself is not built with it, so only what our own code does is looked at.
# Addresses must not be random; a container may forbid to ask for that.
export TSAN_OPTIONS='ignore_noninstrumented_modules=1 exitcode=66'
fixed=(setarch -R)
"${fixed[@]}" true 2>/dev/null || fixed=()
if LD_PRELOAD="$(_library tsan)" ${fixed[@]+"${fixed[@]}"} "$venv_python" -c '' 2>/dev/null; then
  # What it says must not be captured: it ends the process.
  _test thread "$(_library tsan)" ${fixed[@]+"${fixed[@]}"} \
    "$venv_python" -m pytest -q -s -p no:cacheprovider "$@"
else
  echo 'thread: left out, ThreadSanitizer does not start here.'
fi
