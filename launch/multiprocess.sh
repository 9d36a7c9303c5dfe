#!/usr/bin/env bash
# Runs an experiment in N processes on this machine, joined by jax.distributed: a step
# takes a share of its batch in each. What N processes do on N devices is what one does
# on N devices; see experiments/_processes.py.
#
#   launch/multiprocess.sh 2                                  the main job
#   launch/multiprocess.sh 2 --config=FILE --workdir=DIR ...  the main job, other flags
#   launch/multiprocess.sh 2 experiments/bayesian.py ...      another experiment
#
# The first process speaks; of the others only errors are shown, with their number.
# Where one of them dies, all end, and this script says which one it was. Ctrl-C (or
# SIGTERM) saves and ends all, a second one ends them at once. The same command goes on,
# also with another N. On GPUs, process i has GPU i; JAX_PLATFORMS=cpu uses none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] ||
  _fail "the first argument is the number of processes; got '${1:-}'." \
    'For example: launch/multiprocess.sh 2 experiments/classify.py --workdir=runs/two'
number=$1
shift
ensure_venv experiments

port="$("$venv_python" -c '
import socket
with socket.socket() as free:
  free.bind(("127.0.0.1", 0))
  print(free.getsockname()[1])')"
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$number"
# Nothing outside this machine has to reach it.
export JAX_COORDINATOR_BIND_ADDRESS="$JAX_COORDINATOR_ADDRESS"

# Through this pipe the processes report their ends, in the order in which they come.
folder="$(mktemp -d)"
mkfifo "$folder/ends"
exec 3<>"$folder/ends"
rm -r "$folder"

_errors_of() { # NUMBER: what comes in, line by line
  trap '' INT TERM
  local line
  while IFS= read -r line; do printf '[process %s] %s\n' "$1" "$line" >&2; done
}

_start() { # NUMBER COMMAND...
  local i=$1 code=0
  shift
  trap : INT TERM # They are for the command; this shell has to report its end.
  export JAX_PROCESS_ID="$i" JAX_LOCAL_DEVICE_IDS="${JAX_LOCAL_DEVICE_IDS:-$i}"
  exec 4>&2
  ((i == 0)) || exec >/dev/null 4> >(_errors_of "$i")
  exec 2>/dev/null # What this shell says of a command that was killed.
  "$repo/launch/local.sh" "$@" 2>&4 || code=$?
  echo "$i $code" >&3
}

# Each is a group of its own: Ctrl-C comes here only, and a kill takes all of a group.
set -m
groups=()
for ((i = 0; i < number; i++)); do
  _start "$i" "$@" </dev/null &
  groups+=("$!")
  disown "$!"
done
set +m

_signal() { # NAME
  local group
  for group in "${groups[@]}"; do kill "-$1" -- "-$group" 2>/dev/null || true; done
}

signals=0
_stop() {
  signals=$((signals + 1))
  ((signals == 1)) || exit 137
  _signal TERM
}
trap _stop INT TERM HUP
trap '_signal KILL' EXIT

_how() { # STATUS
  if (($1 > 128)); then
    echo "was ended by SIG$(kill -l "$(($1 - 128))"); all others are stopped." \
      'The same command goes on from the last checkpoint.'
  else
    echo "ended with status $1; all others are stopped."
  fi
}

# Reads ends until all have come. After a first bad one the others get some seconds for
# their own last words: they may wait for the dead one for ever.
left=$number failed=0 deadline=
while ((left)); do
  if [[ -z "$deadline" ]]; then
    read -r i code <&3 || continue # A signal came.
  elif ! read -r -t 1 i code <&3; then
    ((SECONDS < deadline)) && continue
    break
  fi
  left=$((left - 1))
  if ((code && !failed)); then
    failed=$code
    # 143 is what a run says that was told to stop, and saved.
    deadline=$((SECONDS + (code == 143 ? 10 : 2)))
    ((signals)) || echo "error: process $i of $number $(_how "$code")" >&2
  fi
done
exit "$failed"
