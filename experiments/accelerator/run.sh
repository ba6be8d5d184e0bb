#!/usr/bin/env bash
# Measures a GPU, part by part; each keeps what it has when it is cut, and goes on there.
#
#   bash experiments/accelerator/run.sh OUT [PART ...] [--minutes=N] [--plan] [--dry]
#                                       [--data=PREPARED] [--wheels=FOLDER]
#
# A PART is a script beside this one up to its underscore, a1 or A1; without any, all of
# them. --minutes starts nothing that would take longer than is left of so many.
# --plan says what OUT does not have yet, and how long it would take. --dry runs the
# parts in small, on the CPU. --data is a prepared Imagenette, for B. --wheels installs
# wheels from a folder into OUT/site first, on a machine without a network. PYTHON names
# another interpreter.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
out=$1 minutes="" options=() data=() wheels="" scripts=()
shift
for argument in "$@"; do
  case $argument in
    --dry | --plan) options+=("$argument") ;;
    --minutes=*) minutes=${argument#*=} ;;
    --data=*) data=("$argument") ;;
    --wheels=*) wheels=${argument#*=} ;;
    -*)
      echo "unknown option $argument; there are --minutes, --plan, --dry, --data and --wheels" >&2
      exit 2
      ;;
    *)
      found=("$here/$(echo "$argument" | tr '[:upper:]' '[:lower:]')"_*.py)
      [ -e "${found[0]}" ] || { echo "no part $argument in $here" >&2; exit 2; }
      scripts+=("${found[0]}")
      ;;
  esac
done
case $minutes in
  *[!0-9]*) echo "--minutes=$minutes must be a whole number" >&2; exit 2 ;;
esac
[ ${#scripts[@]} -gt 0 ] || scripts=("$here"/{a?,b,c}_*.py)
if [ -n "$wheels" ]; then
  "${PYTHON:-python}" -m pip install -q --no-index --no-deps --upgrade \
    --target="$out/site" "$wheels"/*.whl || exit 1
  export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
case " ${options[*]-} " in
  *" --dry "*)
    # In two processes, which import once and compile little twice.
    exec "${PYTHON:-python}" "$here/dry.py" "$out" ${minutes:+"--seconds=$((60 * minutes))"} \
      ${options[@]+"${options[@]}"} "${scripts[@]}"
    ;;
esac
status=0
for script in "${scripts[@]}"; do
  given=(${options[@]+"${options[@]}"})
  [ -z "$minutes" ] || given+=("--seconds=$((60 * minutes - SECONDS))")
  [[ $script != */b_* ]] || given+=(${data[@]+"${data[@]}"})
  "${PYTHON:-python}" "$script" --output="$out" ${given[@]+"${given[@]}"} || {
    echo "${script##*/} failed" >&2
    status=1
  }
done
exit $status
