#!/usr/bin/env bash
# Start the MLflow server (registry and tracking) in the foreground; Ctrl-C stops it.
set -euo pipefail
root="$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")"
rossmann="$root/.venv/bin/rossmann"
if [[ ! -x "$rossmann" ]]; then
  echo "error: $rossmann does not exist; install it with: bash scripts/launch_dashboard.sh" >&2
  exit 1
fi
cd "$root"
exec "$rossmann" mlflow "$@"
