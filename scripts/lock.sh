#!/usr/bin/env bash
# Compiles pyproject.toml into the four lock files, with a hash of every file. Needs uv (named by UV, or on PATH).
# Keeps the pinned versions; `scripts/lock.sh --upgrade` takes the newest.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

compile() { # compile OUTPUT [uv arguments...]
  local output="$1"
  shift
  "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --generate-hashes \
    --output-file "$output" "$@"
}

compile requirements.lock --group build --extra all pyproject.toml "$@"
# What the prediction service alone needs, for its container image: a part of the first.
compile requirements-serving.lock --constraint requirements.lock pyproject.toml
# What builds the container images.
compile deployment/docker/requirements.lock --constraint requirements.lock --group build --group image
# It has exactly the first one's versions, plus the packages for tests and checks.
compile requirements-dev.lock --constraint requirements.lock --group build --group dev --extra all pyproject.toml "$@"
