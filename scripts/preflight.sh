#!/usr/bin/env bash
# Makes sure that what the build and the tests need is on the machine: a C and C++ compiler and make (librdkafka is
# compiled from its bundled source), cargo, Python 3 with pip and venv. Installs Debian packages where it may; otherwise
# says in one line what to install.
set -euo pipefail

missing=()
programs=()
want() { # want PROGRAM PACKAGE [CHECK…]
  local program=$1 package=$2
  shift 2
  if ! { command -v "$program" && { [ $# = 0 ] || "$@"; }; } >/dev/null 2>&1; then
    missing+=("$package")
    programs+=("$program")
  fi
}

want cc build-essential
want c++ build-essential
want make build-essential
want python3 python3
want python3 python3-pip python3 -m pip --version
want python3 python3-venv python3 -c 'import ensurepip, venv'

if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if command -v apt-get >/dev/null && { [ ${#sudo[@]} = 0 ] || "${sudo[@]}" true 2>/dev/null; }; then
    echo "preflight: installing ${missing[*]}" >&2
    "${sudo[@]}" apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  else
    echo "preflight: ${programs[*]} not found. Install: ${missing[*]} (Debian and Ubuntu: apt-get install ${missing[*]})" >&2
    exit 1
  fi
fi

if ! command -v cargo >/dev/null; then
  echo "preflight: cargo not found. Install Rust 1.92 or newer by rustup, see https://rustup.rs" >&2
  exit 1
fi
