# Functions for the other scripts: set up the virtual environment and install packages.
# Needs bash and Python 3.11 or later with venv; uses uv if it is on PATH, else pip.

# Containers often set this. Without cached bytecode each process compiles some 1,800 modules, which
# is more than half of its start-up time. The cache is in .venv.
unset PYTHONDONTWRITEBYTECODE
# Settings of the user's pip and uv that put packages elsewhere than into .venv (see also --no-user
# below), install none, or contradict the locks.
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_CONSTRAINT PIP_REQUIRE_HASHES
unset UV_NO_VERIFY_HASHES UV_VERIFY_HASHES UV_SYSTEM_PYTHON UV_PYTHON UV_DRY_RUN UV_CONSTRAINT UV_OVERRIDE UV_REQUIRE_HASHES
# Modules of another environment, which would go before those in .venv.
unset PYTHONHOME PYTHONPATH

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints the interpreter to use: PYTHON if set, else the first that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or later is needed; install it, or name it: PYTHON=/path/to/python3.11"
}

is_new_enough() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null
}

# say_done WHAT SECONDS_AT_START: print a step with its duration, as `rossmann up` does.
say_done() {
  printf '  ✓ %6.1f s  %s\n' "$(seconds_since "$2")" "$1"
}

now() {
  date +%s.%N
}

seconds_since() {
  awk -v from="$1" -v to="$(now)" 'BEGIN { print to - from }'
}

# install_into_venv LOCK: install all that LOCK pins, and the project (editable), into .venv.
# Does nothing if a stamp has the checksum of the lock, and this folder.
install_into_venv() {
  local lock="$1" began
  mkdir -p .venv
  if command -v flock >/dev/null; then
    # Only one installation at a time may write into the folder.
    exec 9>.venv/.install-lock  # not .lock, which uv takes
    flock -n 9 || { echo "  … another installation into .venv is running: waiting for it" && flock 9; }
  fi
  if ! is_installed "$lock"; then
    make_venv
    began="$(now)"
    install_packages "$lock"
    stamp_of "$lock" >".venv/.installed-$lock"
    # The larger lock includes the smaller one's packages in the same versions.
    [ "$lock" = requirements.lock ] || stamp_of requirements.lock >.venv/.installed-requirements.lock
    say_done "$(grep -c '==' "$lock") packages of $lock installed" "$began"
  fi
  exec 9>&-
}

stamp_of() {
  echo "$(cat "$1" pyproject.toml | cksum) $PWD $(venv_version)"
}

# Packages are in a folder of the Python version: after an update of Python they are not found.
venv_version() {
  .venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_installed() {
  [ "$(stamp_of "$1")" = "$(cat ".venv/.installed-$1" 2>/dev/null)" ] && works
}

works() {
  .venv/bin/python -c '' 2>/dev/null
}

# Create .venv unless a working one exists; its scripts contain the path of its folder.
make_venv() {
  local began python
  if works && [ "$(cat .venv/.folder 2>/dev/null || echo "$PWD")" = "$PWD" ]; then
    if is_new_enough .venv/bin/python; then
      return
    fi
    [ -e .venv/.folder ] || fail ".venv is of Python $(venv_version), and 3.11 or later is needed;" \
      "remove it and run this again: rm -rf $(printf %q "$PWD/.venv")"
  fi
  began="$(now)"
  python="$(find_python)"
  find .venv -mindepth 1 -maxdepth 1 ! -name .install-lock -exec rm -rf {} +
  if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing --python "$python" .venv
  else
    "$python" -m venv .venv || fail "$python cannot make .venv; on Debian: apt-get install python3-venv"
  fi
  echo "$PWD" >.venv/.folder
  say_done "virtual environment .venv made with $python" "$began"
}

pip_install() {
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
    --no-user --no-deps --no-compile "$@"
}

# --require-hashes: what an index or a cache delivers must be the files that were locked. This folder
# has no hash, so it is installed after them, without an index: the locks hold what builds it.
# --no-deps: the locks are complete. --no-compile: only few of the installed modules are imported,
# and Python compiles these at their first import.
install_packages() {
  local log=.venv/install.log ticker status=0
  echo "  … installing packages (log: $log)"
  if command -v uv >/dev/null; then
    { uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes -r "$1" &&
      uv pip install --quiet --python .venv/bin/python --no-deps --no-index --no-build-isolation \
        -e .; } 2>"$log" || status=$?
  else
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >"$log"
    # It may outlive this script for a moment, so it must not inherit the lock or our output pipe.
    while sleep 10 >/dev/null 2>&1; do
      echo "    $(grep -c '^Collecting' "$log") of $(grep -c '==' "$1") collected"
    done 9>&- &
    ticker=$!
    # shellcheck disable=SC2064
    trap "kill $ticker 2>/dev/null" EXIT
    { pip_install --require-hashes -r "$1" &&
      pip_install --no-index --no-build-isolation -e .; } >"$log" 2>&1 || status=$?
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null || true
    trap - EXIT
  fi
  if [ "$status" -ne 0 ]; then
    tail -n 15 "$log" >&2
    fail "the packages could not be installed; full log: $PWD/$log"
  fi
}
