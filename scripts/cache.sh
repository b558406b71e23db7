# Sourced by the other scripts: `cache` is the folder where downloads and virtual environments are kept.
if [ -n "${CONJOIN_CACHE:-}" ]; then
  cache=$CONJOIN_CACHE
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
  cache=$XDG_CACHE_HOME/conjoin
else
  cache=${HOME:-${TMPDIR:-/tmp}}/.cache/conjoin
fi
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
