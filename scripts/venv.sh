#!/usr/bin/env bash
# Makes or reuses a Python virtual environment and prints the path of its `python`: venv.sh NAME PACKAGE…
#
#     $(scripts/venv.sh bench numpy duckdb) benches/e2e/run.py
#
# The environment lies in the cache folder; it is made anew when the list of packages changes.
set -euo pipefail
name=$1
shift

# shellcheck source=scripts/cache.sh
. "$(dirname "$0")/cache.sh"
folder=$cache/venv-$name
wanted="$(python3 --version) $*"

if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/packages" 2>/dev/null)" = "$wanted" ]; then
  echo "$folder/bin/python"
  exit
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  echo "venv: needs Python's venv: install python3-venv" >&2
  exit 1
fi
echo "venv: making $name with $*" >&2
rm -rf "$folder"
python3 -m venv "$folder" >&2
[ $# = 0 ] || "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
echo "$wanted" >"$folder/packages"
echo "$folder/bin/python"
