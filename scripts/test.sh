#!/usr/bin/env bash
# Install the test dependencies and run every check. Arguments go to pytest: scripts/test.sh tests/data
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source scripts/common.sh

# Browser tests use Debian's chromium; if it cannot be installed, they are skipped with the reason.
find_browser() {
  local began
  if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then
    return
  fi
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    export ROSSMANN_NO_BROWSER="chromium is not installed, and only root can install it here"
  else
    began="$(now)"
    if { apt-get update && apt-get install -y --no-install-recommends chromium; } \
      >.venv/chromium.log 2>&1 </dev/null; then
      say_done "chromium installed" "$began"
      return
    fi
    export ROSSMANN_NO_BROWSER="chromium could not be installed, see .venv/chromium.log"
  fi
  echo "  browser tests are skipped: $ROSSMANN_NO_BROWSER"
}

check() { # check NAME COMMAND...: print one line if it passes, its whole output if it fails
  local began output
  began="$(now)"
  if ! output="$("${@:2}" 2>&1)"; then
    echo "$output"
    fail "$1 failed"
  fi
  say_done "$1" "$began"
}

install_into_venv requirements-dev.lock
find_browser
bin=.venv/bin
check "ruff" "$bin/ruff" check .
check "ruff format" "$bin/ruff" format --check .
check "mypy" "$bin/mypy"
check "layers" "$bin/lint-imports"
check "hadolint" "$bin/hadolint" deployment/docker/Dockerfile
# Three processes, by whole files: some tests wait for a browser or a server while others compute.
exec "$bin/python" -m pytest --numprocesses 3 --dist loadfile "$@"
