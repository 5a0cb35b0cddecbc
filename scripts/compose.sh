#!/usr/bin/env bash
# All services in containers (deployment/compose.yaml): docs/deployment/compose.md
# Needs bash, openssl, and Docker with its compose plugin, or Podman with podman-compose.
set -euo pipefail
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")/../deployment"

usage() {
  cat <<'TEXT'
bash scripts/compose.sh up                make what is missing, build the image, start all services
bash scripts/compose.sh down              stop and remove the containers; data stay
bash scripts/compose.sh secrets           make .env, keys, passwords and a certificate, start nothing
bash scripts/compose.sh user NAME         add a user of the dashboard, or give them a new password
bash scripts/compose.sh backup FOLDER     copy databases, data, registry and secrets, while they run
bash scripts/compose.sh restore FOLDER    put a backup back, into empty volumes
bash scripts/compose.sh ps | logs | ...   any other command of docker compose
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 1
}

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose "$@"
  elif podman compose version >/dev/null 2>&1; then
    podman compose "$@"
  elif command -v podman-compose >/dev/null; then
    podman-compose "$@"
  else
    fail "no compose: install Docker with its compose plugin, or Podman with podman-compose"
  fi
}

# Prints the value of a variable, as compose would find it.
setting() {
  local line
  line="$(grep -E "^$1=" .env .env.example -h | head -n 1)"
  echo "${!1:-${line#*=}}"
}

random_text() {
  openssl rand -base64 32 | tr '+/' '-_' | tr -d '=\n'
}

# write_secret NAME: keep stdin in a file. Containers have users of their own and see the file with
# its mode on the host, so all may read it; only the folder's owner can get at it.
write_secret() {
  cat >"secrets/$1"
  chmod 644 "secrets/$1"
}

make_secrets() {
  local name key
  command -v openssl >/dev/null || fail "openssl is needed to make keys and passwords: install it"
  [ -f .env ] || cp .env.example .env
  chmod -R a+rX nginx postgres prometheus grafana # for the users of the containers
  mkdir -p secrets
  chmod 700 secrets
  for name in postgres_password rossmann_database_password grafana_password; do
    [ -s "secrets/$name" ] || random_text | write_secret "$name"
  done
  if ! [ -s secrets/rossmann_api_key ] || ! [ -s secrets/rossmann_api_keys ]; then
    key="rsf_$(random_text)"
    printf '%s' "$key" | write_secret rossmann_api_key
    printf 'predict:%s:dashboard' "$(printf '%s' "$key" | openssl dgst -sha256 -r | cut -c 1-64)" |
      write_secret rossmann_api_keys
  fi
  [ -s secrets/dashboard_users ] || set_user planner
  { [ -s secrets/tls_certificate.pem ] && [ -s secrets/tls_key.pem ]; } || make_certificate
}

# set_user NAME: a new password for a user of the dashboard. The file is written in place, because
# the container holds the file and not its name.
set_user() {
  local password others=""
  [[ "$1" =~ ^[A-Za-z0-9._@-]+$ ]] || fail "a name has letters, digits and . _ @ - only"
  password="$(random_text)"
  [ ! -f secrets/dashboard_users ] || others="$(grep -v "^$1:" secrets/dashboard_users || true)"
  printf '%s\n' ${others:+"$others"} "$1:$(printf '%s' "$password" | openssl passwd -apr1 -stdin)" |
    write_secret dashboard_users
  echo "Password of $1 for the dashboard, shown this once: $password"
}

make_certificate() {
  local site kind=DNS
  site="$(setting ROSSMANN_SITE)"
  [[ "$site" =~ ^[0-9.]+$ || "$site" == *:* ]] && kind=IP
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 \
    -subj "/CN=$site" -addext "subjectAltName=$kind:$site" \
    -keyout secrets/tls_key.pem -out secrets/tls_certificate.pem 2>/dev/null ||
    fail "openssl could not make a certificate for $site"
  chmod 644 secrets/tls_key.pem secrets/tls_certificate.pem
  echo "WARNING: the certificate is signed by nobody, so browsers warn of it. Replace" \
    "deployment/secrets/tls_certificate.pem and tls_key.pem by those of $site."
}

up() {
  make_secrets
  compose up --build --detach --wait "$@"
  local address
  address="https://$(setting ROSSMANN_SITE):$(setting ROSSMANN_HTTPS_PORT)"
  echo "Dashboard: $address/dashboard/  (user planner; a new password: compose.sh user planner)"
  echo "API:       $address/api/  (the dashboard's key is in deployment/secrets/rossmann_api_key)"
  echo "Grafana:   $address/grafana/  (user admin, password in deployment/secrets/grafana_password)"
}

# pack SERVICE FILE NAME...: an archive of parts of a running service's data folder.
pack() {
  local service="$1" file="$2"
  shift 2
  compose exec -T "$service" python -c "$(cat archive.py)" pack "$@" >"$file" ||
    fail "the data of $service could not be copied: does it run?"
}

# The order matters: the spool before the log's database, so that a row that is in both is written
# once; the registry's database before its files, so that it names complete files only.
backup() {
  [ -n "${1:-}" ] || fail "name a folder: bash scripts/compose.sh backup FOLDER"
  mkdir -p "$(dirname "$1")"
  mkdir "$1" || fail "the folder of a backup must be a new one"
  local name
  pack api "$1/spool.tar.gz" prediction_log/spool
  for name in rossmann mlflow; do
    compose exec -T database pg_dump --username=postgres --format=custom "$name" >"$1/$name.dump"
  done
  pack mlflow "$1/registry.tar.gz" mlflow
  pack api "$1/data.tar.gz" demo ingested tuning retrain backtests keys.txt
  cp -R .env secrets "$1/"
  echo "Backup: $1 (it holds secrets and sales: keep it where only you can read it)"
}

unpack() {
  compose run --rm -T --no-deps --entrypoint python "$1" -c "$(cat archive.py)" unpack <"$2"
}

restore() {
  [ -f "${1:-}/mlflow.dump" ] || fail "name the folder of a backup"
  local name
  [ -z "$(compose ps --quiet api)" ] || fail "stop the services first: bash scripts/compose.sh down"
  [ -d secrets ] || cp -R "$1/secrets" "$1/.env" .
  compose up --detach --wait database
  for name in rossmann mlflow; do
    compose exec -T database pg_restore --username=postgres --clean --if-exists --exit-on-error \
      --dbname="$name" <"$1/$name.dump"
  done
  unpack mlflow "$1/registry.tar.gz"
  unpack prepare "$1/data.tar.gz"
  unpack prepare "$1/spool.tar.gz"
  echo "Restored. Start all services: bash scripts/compose.sh up"
}

absolute() {
  case "${1:-}" in
    "" | /*) echo "${1:-}" ;;
    *) echo "$started_in/$1" ;;
  esac
}

started_in="$OLDPWD"
command="${1:-help}"
[ $# -eq 0 ] || shift
case "$command" in
  up) up "$@" ;;
  down) compose down "$@" ;;
  secrets) make_secrets ;;
  user) make_secrets && set_user "${1:-}" ;;
  backup) backup "$(absolute "${1:-}")" ;;
  restore) restore "$(absolute "${1:-}")" ;;
  help | -h | --help) usage ;;
  *) compose "$command" "$@" ;;
esac
