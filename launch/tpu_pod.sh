#!/usr/bin/env bash
# Runs an experiment on all workers of a Cloud TPU slice, joined by jax.distributed. From
# your own machine, with gcloud set up for the project:
#
#   launch/tpu_pod.sh NAME ZONE --workdir=/mnt/shared/runs/x           the main job
#   launch/tpu_pod.sh NAME ZONE experiments/bayesian.py --workdir=/mnt/shared/...
#   launch/tpu_pod.sh --stop NAME ZONE                                 saves and ends it
#
# It copies the files that git knows, as they are now, to ~/jaxsparse on every worker, and
# installs there on the first call. --workdir has to lie on a file system that all workers
# have mounted (a bucket by gcsfuse, Filestore): the first one writes, all restore. The same
# goes for --data_dir. Ctrl-C saves and ends all. Where one worker dies, jax ends the others
# within half a minute; the same command goes on from the last checkpoint.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

stop=
if [[ "${1:-}" == --stop ]]; then
  stop=1
  shift
fi
[[ $# -ge 2 && "$1" != -* && "$2" != -* ]] ||
  _fail 'wanted: launch/tpu_pod.sh [--stop] NAME ZONE [SCRIPT] --flags ...'
name=$1 zone=$2
shift 2

_gcloud() { gcloud compute tpus tpu-vm "$@" --zone="$zone" --worker=all; }

_stop() {
  _gcloud ssh "$name" --command="kill -TERM \$(cat jaxsparse/.process)"
}

if [[ -n "$stop" ]]; then
  _stop
  exit
fi

case "${1:--}" in
  -*) set -- experiments/classify.py "$@" ;;
esac
[[ " $* " == *' --workdir=/'* ]] || _fail \
  '--workdir: wanted an absolute path that all workers have mounted, such as' \
  '--workdir=/mnt/shared/runs/x'

archive="$(mktemp -d)/jaxsparse.tgz"
trap 'rm -r "${archive%/*}"' EXIT
cd "$repo"
git ls-files -z | tar --create --gzip --null --files-from=- --file="$archive"
_gcloud scp "$archive" "$name:jaxsparse.tgz"

command="mkdir -p jaxsparse && tar -xzf jaxsparse.tgz -C jaxsparse && cd jaxsparse"
# The shell's number stays that of the process: local.sh becomes it.
command+=" && echo \$\$ >.process && exec env JAXSPARSE_CLUSTER=auto"
command+=" JAXSPARSE_EXTRAS=tpu launch/local.sh$(printf ' %q' "$@")"
trap 'echo "Saving and ending all workers ..." >&2; _stop' INT TERM HUP
_gcloud ssh "$name" --command="$command"
