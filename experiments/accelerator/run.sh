#!/usr/bin/env bash
# Measures a GPU, part by part; each keeps what it has when it is cut, and goes on there.
#
#   bash experiments/accelerator/run.sh OUT [PART ...] [--dry]
#
# A PART is a script beside this one up to its underscore, a1 or A1; without any, all of
# them. --dry runs them in small, on a CPU too. PYTHON names another interpreter.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
out=$1 dry="" scripts=()
shift
for argument in "$@"; do
  case $argument in
    --dry) dry=--dry ;;
    -*) echo "unknown option $argument; there is --dry" >&2; exit 2 ;;
    *)
      found=("$here/$(echo "$argument" | tr '[:upper:]' '[:lower:]')"_*.py)
      [ -e "${found[0]}" ] || { echo "no part $argument in $here" >&2; exit 2; }
      scripts+=("${found[0]}")
      ;;
  esac
done
[ ${#scripts[@]} -gt 0 ] || scripts=("$here"/*_*.py)
status=0
for script in "${scripts[@]}"; do
  "${PYTHON:-python}" "$script" --output="$out" $dry || {
    echo "${script##*/} failed" >&2
    status=1
  }
done
exit $status
