#!/usr/bin/env bash
# Measures a GPU, part by part; each keeps what it has when it is cut, and goes on there.
#
#   bash experiments/accelerator/run.sh OUT [PART ...] [--dry] [--data=PREPARED] [--wheels=FOLDER]
#
# A PART is a script beside this one up to its underscore, a1 or A1; without any, all of
# them. --dry runs them in small, on a CPU too. --data is a prepared Imagenette, for B.
# --wheels installs wheels from a folder into OUT/site first, on a machine without a
# network. PYTHON names another interpreter.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
out=$1 dry="" data="" wheels="" scripts=()
shift
for argument in "$@"; do
  case $argument in
    --dry) dry=--dry ;;
    --data=*) data=$argument ;;
    --wheels=*) wheels=${argument#*=} ;;
    -*) echo "unknown option $argument; there are --dry, --data and --wheels" >&2; exit 2 ;;
    *)
      found=("$here/$(echo "$argument" | tr '[:upper:]' '[:lower:]')"_*.py)
      [ -e "${found[0]}" ] || { echo "no part $argument in $here" >&2; exit 2; }
      scripts+=("${found[0]}")
      ;;
  esac
done
[ ${#scripts[@]} -gt 0 ] || scripts=("$here"/{a?,b,c}_*.py)
if [ -n "$wheels" ]; then
  "${PYTHON:-python}" -m pip install -q --no-index --no-deps --upgrade \
    --target="$out/site" "$wheels"/*.whl || exit 1
  export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
status=0
for script in "${scripts[@]}"; do
  extra=""
  [[ $script != */b_* ]] || extra=$data
  "${PYTHON:-python}" "$script" --output="$out" $dry ${extra:+"$extra"} || {
    echo "${script##*/} failed" >&2
    status=1
  }
done
exit $status
