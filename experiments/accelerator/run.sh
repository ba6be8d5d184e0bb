#!/usr/bin/env bash
# Measures a GPU, part by part; each keeps what it has when it is cut, and goes on there.
#
#   bash experiments/accelerator/run.sh OUT [PART ...] [--dry]
#
# A PART is a file beside this one up to its first underscore, a1 or A1; without any, all
# of them. --dry runs them in small, on a CPU too. PYTHON names another interpreter.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1 dry="" parts=""
shift
for argument in "$@"; do
  case $argument in
    --dry) dry=--dry ;;
    -*) echo "unknown option $argument; there is --dry" >&2; exit 2 ;;
    *) parts="$parts $(echo "$argument" | tr '[:upper:]' '[:lower:]')" ;;
  esac
done
[ -n "$parts" ] || parts=$(cd "$here" && ls [a-z][0-9]_*.py [a-z]_*.py 2>/dev/null | sed 's/_.*//' | sort -u)
status=0
for part in $parts; do
  script=$(ls "$here/${part}"_*.py 2>/dev/null | head -1)
  [ -n "$script" ] || { echo "no part $part in $here" >&2; exit 2; }
  "${PYTHON:-python}" "$script" --output="$out" $dry || { echo "part $part failed" >&2; status=1; }
done
exit $status
