#!/usr/bin/env bash
# Starts the MLflow server (registry and tracking) in the foreground; Ctrl-C ends it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rossmann="$root/.venv/bin/rossmann"
if [[ ! -x "$rossmann" ]]; then
  echo "error: $rossmann is not there; 'bash scripts/launch_dashboard.sh' sets it up" >&2
  exit 1
fi
cd "$root"
exec "$rossmann" mlflow "$@"
