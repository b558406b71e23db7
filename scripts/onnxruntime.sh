#!/usr/bin/env bash
# Prints the path of an ONNX Runtime shared library, 1.20 or newer: $ORT_DYLIB_PATH if set, else one installed on the
# system, else the one inside the `onnxruntime` Python wheel, downloaded once.
#
#     export ORT_DYLIB_PATH=$(scripts/onnxruntime.sh)
set -euo pipefail
version=1.32.0

if [ -n "${ORT_DYLIB_PATH:-}" ]; then
  echo "$ORT_DYLIB_PATH"
  exit
fi

# shellcheck source=scripts/cache.sh
. "$(dirname "$0")/cache.sh"
folder=$cache/onnxruntime-$version

find_library() { # the wheel holds one file, with the version in its name
  find "$folder" -name 'libonnxruntime.so.*' -o -name 'libonnxruntime.*.dylib' 2>/dev/null | head -n 1
}

if [ -d "$folder" ]; then
  find_library
  exit
fi

for library in $( (ldconfig -p 2>/dev/null || true) | sed -n 's/.*=> \(.*libonnxruntime\.so.*\)/\1/p'); do
  library=$(readlink -f "$library")
  minor=$(basename "$library" | sed -n 's/libonnxruntime\.so\.1\.\([0-9]*\).*/\1/p')
  if [ "${minor:-0}" -ge 20 ]; then
    echo "$library"
    exit
  fi
done

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "onnxruntime: needs pip to download ONNX Runtime: install python3-pip, or set ORT_DYLIB_PATH" >&2
  exit 1
fi
echo "onnxruntime: downloading ONNX Runtime $version (once)" >&2
work=$(mktemp -d "$cache/onnxruntime-download-XXXXXX")
trap 'rm -rf "$work"' EXIT
# Any Python's wheel holds the same library: one is asked for by name, so that it does not depend on the Python here.
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
  --dest "$work" "onnxruntime==$version" >&2; then
  echo "onnxruntime: the download failed: set ORT_DYLIB_PATH to an ONNX Runtime library, 1.20 or newer" >&2
  exit 1
fi
mkdir "$work/unpacked"
python3 - "$work" <<'PY'
import glob, sys, zipfile
work = sys.argv[1]
(wheel,) = glob.glob(work + "/onnxruntime-*.whl")
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if "libonnxruntime." in n and "providers" not in n]
    archive.extractall(work + "/unpacked", names)
PY
mv -T "$work/unpacked" "$folder" 2>/dev/null || [ -d "$folder" ] # another process may have been faster
find_library
