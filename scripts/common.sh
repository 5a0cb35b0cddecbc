# Sourced by the scripts beside it: the virtual environment and what is installed in it.
# Needs bash and Python 3.11 or later with venv; takes uv where it is on PATH, else pip.

# Containers often set this. Without kept bytecode each process compiles some 1,800 modules when it
# starts, which is more than half of a start; .venv is ours, and a good place for it.
unset PYTHONDONTWRITEBYTECODE

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints the interpreter to use: PYTHON if set, else the first that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or later is needed; install it, or name it: PYTHON=/path/to/python3.11"
}

# say_done WHAT SECONDS_AT_START: a step's line with its time, like those of `rossmann up`.
say_done() {
  printf '  ✓ %6.1f s  %s\n' "$(seconds_since "$2")" "$1"
}

now() {
  date +%s.%N
}

seconds_since() {
  awk -v from="$1" -v to="$(now)" 'BEGIN { print to - from }'
}

# install_into_venv LOCK: .venv has all that LOCK pins, and the project (editable).
# Quick when nothing has changed: a stamp names the lock's content and the folder.
install_into_venv() {
  local lock="$1" began
  mkdir -p .venv
  if command -v flock >/dev/null; then
    # Two set-ups at once must not write into one folder.
    exec 9>.venv/.lock
    flock -n 9 || { echo "  … another set-up of .venv is under way: waiting for it" && flock 9; }
  fi
  if ! is_installed "$lock"; then
    make_venv
    began="$(now)"
    install_packages "$lock"
    stamp_of "$lock" >".venv/.installed-$lock"
    # The larger lock holds the smaller one's packages too, in the same versions.
    [ "$lock" = requirements.lock ] || stamp_of requirements.lock >.venv/.installed-requirements.lock
    say_done "$(grep -c '==' "$lock") packages of $lock installed" "$began"
  fi
  exec 9>&-
}

stamp_of() {
  echo "$(cat "$1" pyproject.toml | cksum) $PWD"
}

is_installed() {
  [ "$(stamp_of "$1")" = "$(cat ".venv/.installed-$1" 2>/dev/null)" ] && works
}

works() {
  .venv/bin/python -c '' 2>/dev/null
}

# Makes .venv where there is none that works here: its scripts name the folder that it was made in.
make_venv() {
  local began python
  if works && [ "$(cat .venv/.folder 2>/dev/null || echo "$PWD")" = "$PWD" ]; then
    return
  fi
  began="$(now)"
  python="$(find_python)"
  find .venv -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
  if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing --python "$python" .venv
  else
    "$python" -m venv .venv || fail "$python cannot make .venv; on Debian: apt-get install python3-venv"
  fi
  echo "$PWD" >.venv/.folder
  say_done "virtual environment .venv made with $python" "$began"
}

# The locks are complete, so nothing is left to resolve: --no-deps. Bytecode is made when a module
# is first imported, which is a small part of what is installed.
install_packages() {
  local log=.venv/install.log ticker status=0
  echo "  … installing packages (log: $log)"
  if command -v uv >/dev/null; then
    uv pip install --quiet --python .venv/bin/python --no-deps -r "$1" -e . 2>"$log" || status=$?
  else
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >"$log"
    # It outlives us for a moment: it must hold neither the lock nor the pipe that we write to.
    while sleep 10 >/dev/null 2>&1; do
      echo "    $(grep -c '^Collecting' "$log") of $(grep -c '==' "$1") collected"
    done 9>&- &
    ticker=$!
    # shellcheck disable=SC2064
    trap "kill $ticker 2>/dev/null" EXIT
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
      --no-deps --no-compile -r "$1" -e . >"$log" 2>&1 || status=$?
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null || true
    trap - EXIT
  fi
  if [ "$status" -ne 0 ]; then
    tail -n 15 "$log" >&2
    fail "the packages could not be installed; the whole story: $PWD/$log"
  fi
}
