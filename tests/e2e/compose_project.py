"""Services of ``deployment/compose.yaml`` as plain processes: no engine and no image is needed.

Each runs its own command and environment as its user, in a root of its own
(``isolated_process.py``). All share a network namespace, in which the services' names lead to
addresses of the loopback interface by a name server, as in a network of containers.
"""

import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.e2e.compose_file import compose_file, mounts, start_order
from tests.fixtures.shared import POSTGRES_BIN
from tests.paths import ROOT

CONTAINER: Final = Path(__file__).with_name("isolated_process.py")
PROGRAMS: Final = ("unshare", "nsenter", "setpriv", "ip", "nginx", "envsubst", "prometheus", "wget")
_NEW_NETWORK: Final = 0x40000000
_NAME_SERVER: Final = "127.0.0.11"
_PARAMETERS: Final = "/etc/parameters.yaml"
_DOCKERFILE: Final = ROOT / "deployment" / "docker" / "Dockerfile"
_PYTHON: Final = Path(sys.executable).parent
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POSTGRES: Final = r"""
set -e
data=/var/lib/postgresql/data
if [ ! -s $data/PG_VERSION ]; then
  initdb --pgdata=$data --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> $data/pg_hba.conf
  pg_ctl --pgdata=$data --wait --options="-c listen_addresses=''" start
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 --no-psqlrc --username=postgres --dbname=postgres --file="$file"
  done
  pg_ctl --pgdata=$data --wait --mode=fast stop
fi
exec postgres -D $data -c listen_addresses='*'
"""
_NGINX: Final = r"""
set -e
resolvers="$(awk '/^nameserver/ {print $2}' /etc/resolv.conf | tr '\n' ' ')"
export NGINX_LOCAL_RESOLVERS="${resolvers% }"
names="$(env | sed -n 's/=.*//p' | grep -E "$NGINX_ENVSUBST_FILTER" | sed 's/.*/${&}/')"
for file in /etc/nginx/templates/*.template; do
  envsubst "$names" < "$file" > "$NGINX_ENVSUBST_OUTPUT_DIR/$(basename "$file" .template)"
done
exec "$@"
"""
ENTRY_POINTS: Final[Mapping[str, Sequence[str]]] = {
    "rossmann-forecasting": (str(_PYTHON / "rossmann"),),
    "postgres": ("sh", "-c", _POSTGRES, "postgres"),
    "nginx-unprivileged": ("sh", "-c", _NGINX, "nginx"),
    "prometheus": ("prometheus",),
}
"""What each image does with a command: for PostgreSQL and nginx, what their scripts do."""


def image_environment() -> dict[str, str]:
    """Variables of the product's image, but those of its own files and of its processor."""
    text = _DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    stages = [
        text.partition(f"FROM {name}\n")[2] for name in ("scratch AS runtime", "runtime AS all")
    ]
    lines = [line for stage in stages for line in stage.partition("\nFROM ")[0].splitlines()]
    words = [word for line in lines if line.startswith("ENV ") for word in line.split()[1:]]
    assert len(words) > 5
    pairs = (word.split("=", 1) for word in words)
    # Kernels of this checkout are for this machine's processor.
    return {name: value for name, value in pairs if name not in {"PATH", "NUMBA_CPU_NAME"}}


def missing() -> str:
    """The reason why the services cannot run here; empty if they can."""
    if os.getuid():
        return "only root can give each service a root and a user of its own"
    found = [name for name in PROGRAMS if not shutil.which(name)]
    if found:
        return f"not installed: {', '.join(found)}"
    if not POSTGRES_BIN.is_dir():
        return "PostgreSQL's programs are not installed"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False)
    return "no namespaces can be made here" if probe.returncode else ""


@contextmanager
def own_network() -> Iterator[None]:
    """A network namespace for this thread and what it starts."""
    library = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as former:
        if library.unshare(_NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            _ip("link", "set", "lo", "up")
            yield
        finally:
            library.setns(former.fileno(), _NEW_NETWORK)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class NameServer:
    """Answers ``A`` queries for the names in ``addresses``, which may change."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_NAME_SERVER, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return self._socket.close()
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, kind = query[12 : at + 5], query[at + 1 : at + 3]
        address = self.addresses.get(".".join(labels))
        code = b"\x81\x80" if address else b"\x81\x83"
        found = address is not None and kind == b"\0\1"
        head = query[:2] + code + b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        if not found or address is None:
            return head + question
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address)
        return head + question + record

    def close(self) -> None:
        """End the thread."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"", (_NAME_SERVER, 53))


class Project:
    """The file's services, in a folder with their volumes; run it inside ``own_network``.

    ``image``: files and folders of the product's image by their places in it.
    """

    def __init__(
        self,
        folder: Path,
        deployment: Path,
        variables: Mapping[str, str],
        image: Mapping[str, Path],
    ) -> None:
        self.folder = folder
        self.content = compose_file(variables)
        self.services: dict[str, Any] = self.content["services"]
        self.seconds: dict[str, float] = {}
        self.image = image
        self._deployment = deployment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        prefix = self.content["networks"]["edge"]["ipam"]["config"][0]["subnet"].rpartition(".")[0]
        self._prefix = prefix
        # The first address is where connections come from: nginx, whose address the API trusts.
        _ip("address", "add", f"{prefix}.250/24", "dev", "lo")
        addresses = {}
        for number, name in enumerate(self.services, 2):
            addresses[name] = f"{prefix}.{number}"
            _ip("address", "add", f"{prefix}.{number}/24", "dev", "lo")
        self.names = NameServer(addresses)
        (folder / "resolv.conf").write_text(f"nameserver {_NAME_SERVER}\noptions ndots:0\n")
        (folder / "hosts").write_text("127.0.0.1 localhost\n")

    def move(self, name: str) -> None:
        """Give a service another address, as a container that is made again may have."""
        old = self.names.addresses[name]
        new = f"{self._prefix}.{int(old.rpartition('.')[2]) + 100}"
        _ip("address", "add", f"{new}/24", "dev", "lo")
        _ip("address", "delete", f"{old}/24", "dev", "lo")
        self.names.addresses[name] = new

    def up(self, left_out: Sequence[str] = ()) -> None:
        """Start all services in the file's order, each when those before it are healthy."""
        for name in start_order(self.services):
            service = self.services[name]
            if name in left_out or "profiles" in service:
                continue
            for other, how in service.get("depends_on", {}).items():
                ended = how["condition"] == "service_completed_successfully"
                assert (self._processes[other].poll() == 0) if ended else self.healthy(other)
            self.start(name)
            self.wait(name)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Run a service, with another command if one is given."""
        service = self.services[name]
        image = service["image"].partition(":")[0].rpartition("/")[2]
        words = [*ENTRY_POINTS[image], *(command or service.get("command", ()))]
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self.isolated(name), *words], stdout=log, stderr=log
            )
        self.seconds[name] = -time.monotonic()
        return self._processes[name]

    def isolated(self, name: str) -> list[str]:
        """Begins a command in a new container of a service (``docker compose run``)."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(self._plan(name)))
        namespaces = ["unshare", "--mount", "--pid", "--fork"]
        return [*namespaces, sys.executable, str(CONTAINER), str(file)]

    def log(self, name: str) -> Path:
        """What a service has printed."""
        path = self.folder / f"{name}.log"
        path.touch()
        path.chmod(0o666)
        return path

    def wait(self, name: str, seconds: float = 300) -> None:
        """Until the service is healthy, or has ended well where the file says that it ends."""
        process, deadline = self._processes[name], time.monotonic() + seconds
        ends = self.services[name].get("healthcheck", {}).get("disable", False)
        while True:
            if process.poll() is not None or (not ends and self.healthy(name)):
                break
            assert time.monotonic() < deadline, self.log(name).read_text()[-3000:]
            time.sleep(0.1)
        assert process.poll() == (0 if ends else None), self.log(name).read_text()[-3000:]
        self.seconds[name] += time.monotonic()

    def healthy(self, name: str) -> bool:
        """Whether the service's own check succeeds, run inside the service as it is written."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run_inside(name, *words).returncode == 0

    def run_inside(self, name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """A command in a running service, as its user (``docker compose exec``)."""
        environment = self._plan(name)["environment"]
        command = [*self.inside(name), *words]
        return subprocess.run(command, env=environment, check=False, capture_output=True)

    def inside(self, name: str) -> list[str]:
        """Begins a command in a running service, as its user."""
        plan = self._plan(name)
        user = [f"--reuid={plan['user']}", f"--regid={plan['group']}", "--clear-groups"]
        target = f"--target={self.main_process(name)}"
        return [*("nsenter", target, "--mount", "--pid", "--root", "--wd"), "setpriv", *user]

    def places(self) -> dict[str, Any]:
        """How a command gets into each service that runs, and into a new container of each."""
        return {
            name: {
                "inside": self.inside(name) if self.main_process(name) else [],
                "isolated": self.isolated(name),
                "environment": self._plan(name)["environment"],
            }
            for name in self.services
        }

    def main_process(self, name: str) -> int:
        """The number of the service's first process; 0 before it runs."""
        process = self._processes.get(name)
        if process is None or process.poll() is not None:
            return 0
        parent = process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0]) if children else 0

    def end(self, name: str, how: int) -> int:
        """Send a signal to the service's first process; returns the exit code."""
        os.kill(self.main_process(name), how)
        return self._processes[name].wait(60)

    def down(self) -> None:
        """End all services, the last one first."""
        for name, process in reversed(self._processes.items()):
            if process.poll() is None:
                # The first of its process namespace: the kernel ends all others with it.
                os.kill(self.main_process(name) or process.pid, signal.SIGKILL)
                process.wait(30)
        self.names.close()

    def _plan(self, name: str) -> dict[str, Any]:
        service = self.services[name]
        user, group = _numbers(service["user"])
        root = self.folder / "roots" / name
        root.mkdir(parents=True, exist_ok=True)
        own = {file: str(self.folder / file) for file in ("resolv.conf", "hosts")}
        binds = [(path, f"/etc/{file}", True) for file, path in own.items()]
        for source, target, read_only in mounts(service):
            place = self._deployment / source if source[0] in "./" else self.volume(source, user)
            binds.append((str(place), target, read_only))
        for secret in service.get("secrets", []):
            file = self._deployment / self.content["secrets"][secret]["file"]
            binds.append((str(file), f"/run/secrets/{secret}", True))
        own_variables = {}
        if "build" in service:
            own_variables = {**image_environment(), "ROSSMANN_PARAMS": _PARAMETERS}
            binds += [(str(place), target, True) for target, place in self.image.items()]
        environment = {key: str(value) for key, value in service.get("environment", {}).items()}
        path = f"{_PYTHON}:{POSTGRES_BIN}:{_PATH}"
        return {
            "root": str(root),
            "kept": sorted({str(ROOT), sys.prefix, sys.base_prefix} - {"/usr", "/usr/local"}),
            "binds": binds,
            "tmpfs": service.get("tmpfs", []),
            "read_only": service["read_only"],
            "user": user,
            "group": group,
            "environment": {"PATH": path, **own_variables, **environment},
        }

    def volume(self, name: str, user: int) -> Path:
        """A volume: as with an image's folder, its owner is the first service that has it."""
        assert name in self.content["volumes"]
        folder = self.folder / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
            os.chown(folder, user, user)
        return folder


def _numbers(user: str) -> tuple[int, int]:
    if user.partition(":")[0].isdigit():
        number, _, group = user.partition(":")
        return int(number), int(group)
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
