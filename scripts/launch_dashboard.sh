#!/usr/bin/env bash
# Install, then start all services and open the dashboard. Options are those of `rossmann up`:
# --demo, --detach, --stop, --status, --no-browser.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source scripts/common.sh

install_into_venv requirements.lock
exec .venv/bin/rossmann up "$@"
