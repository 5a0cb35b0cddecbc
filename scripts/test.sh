#!/usr/bin/env bash
# Installs what tests need and runs every check. Arguments go to pytest: scripts/test.sh tests/data
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

# Browser tests take Debian's chromium; where it cannot be had, they are skipped and say why.
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

check() { # check NAME COMMAND...: one line when it is good, all that it says when it is not
  local began output
  began="$(now)"
  if ! output="$("${@:2}" 2>&1)"; then
    echo "$output"
    fail "$1 found faults"
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
# Two at a time, whole files each: some wait, on a browser or a server, while others work.
exec "$bin/python" -m pytest --numprocesses 2 --dist loadfile "$@"
