"""The databases that the storm is about: a file, one on a server that is there, or one on a server of our own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from tests.chaos.ports import free_port
from tests.servers import MariadbServer

NO_SERVER = 3
"""The exit code of a command that needed a server whose programs are not installed."""

PATIENCE = 60
"""Seconds that a server may take to start or to stop."""


@dataclass(frozen=True)
class ChaosDatabase:
    """An empty database, and how its server is stopped and started."""

    url: str
    """With its password."""
    stop: Callable[[], None] | None = None
    """Stops the server as if it had crashed; None where it cannot be."""
    start: Callable[[], None] | None = None
    """Starts it again, and waits until it answers."""

    @property
    def can_restart(self) -> bool:
        """Whether the server can be stopped and started."""
        return self.stop is not None and self.start is not None


class NoServer(Exception):
    """The programs of a database server are not installed."""


@contextmanager
def open_database(
    url: str | None, folder: Path, *, stop: str | None = None, start: str | None = None
) -> Iterator[ChaosDatabase]:
    """An empty database.

    Args:
        url: ``sqlite`` or None for a file in the folder; ``postgresql`` or ``mariadb`` for a server of our own; else
            the URL of a server's database whose user may create others.
        folder: Where a file is made.
        stop: The shell command that stops the server of the URL, as if it had crashed.
        start: The one that starts it again, and waits until it answers.

    Raises:
        NoServer: the programs of the server are not installed.
    """
    if url is None or url == "sqlite":
        yield ChaosDatabase(f"sqlite:///{folder / 'otel_storage.db'}")
    elif url in OWN_SERVERS:
        with OWN_SERVERS[url]() as server, _database_of(make_url(server.url)) as made:
            yield ChaosDatabase(made, server.stop, server.start)
    else:
        commands = (_shell(stop), _shell(start)) if stop and start else ()
        with _database_of(make_url(url)) as made:
            yield ChaosDatabase(made, *commands)


@contextmanager
def _database_of(server: URL) -> Iterator[str]:
    """A new database on the server, dropped afterwards."""
    name = f"chaos_{uuid.uuid4().hex[:12]}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        forced = " WITH (FORCE)" if server.get_backend_name() == "postgresql" else ""
        _execute(server, f"DROP DATABASE {name}{forced}")


def _execute(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


@contextmanager
def _postgresql() -> Iterator[ChaosDatabase]:
    """A PostgreSQL of our own, from the newest of the system's programs."""
    programs = _programs("initdb", "/usr/lib/postgresql/*/bin")
    # A socket's path is short, and the server's user must get there.
    folder = Path(tempfile.mkdtemp(prefix="otel-storage-chaos.", dir="/tmp"))
    user = _server_user("postgres")
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        _run([str(programs / program), *arguments], user, folder)

    port = free_port()
    run("initdb", "-D", str(data), "-U", "otel", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
    # A server that is killed loses nothing without fsync: a machine that is would. Commits are acknowledged as usual.
    settings = {
        "listen_addresses": "'127.0.0.1'",
        "port": str(port),
        "unix_socket_directories": f"'{folder}'",
        "max_connections": "200",
        "fsync": "off",
        "synchronous_commit": "on",
    }
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start() -> None:
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-t", str(PATIENCE), "start")

    def stop() -> None:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "-t", str(PATIENCE), "stop")

    start()
    try:
        yield ChaosDatabase(f"postgresql+psycopg://otel@127.0.0.1:{port}/postgres", stop, start)
    finally:
        stop()
        shutil.rmtree(folder)


@contextmanager
def _mariadb() -> Iterator[ChaosDatabase]:
    """A MariaDB of our own."""
    if shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        raise NoServer("mariadbd is neither in /usr/sbin nor on PATH: install the server, or name one with --url")
    folder = Path(tempfile.mkdtemp(prefix="otel-storage-chaos.", dir="/tmp"))
    server = MariadbServer(folder)
    server.start()
    try:
        yield ChaosDatabase(server.url.render_as_string(hide_password=False), server.kill, server.start)
    finally:
        server.kill()
        shutil.rmtree(folder)


OWN_SERVERS: dict[str, Callable[[], AbstractContextManager[ChaosDatabase]]] = {
    "postgresql": _postgresql,
    "mariadb": _mariadb,
}
"""The servers that can be started here, by what ``--url`` says."""


def _programs(name: str, folders: str) -> Path:
    """Where a server's programs are: in the newest of the folders that Debian keeps off PATH, else on PATH."""
    root, _, pattern = folders.partition("*")
    found = sorted(Path(root).glob(f"*{pattern}/{name}"), key=lambda path: [int(n) for n in path.parts if n.isdigit()])
    if found:
        return found[-1].parent
    path = shutil.which(name)
    if path is None:
        raise NoServer(f"{name} is neither in {folders} nor on PATH: install the server, or name one with --url")
    return Path(path).resolve().parent


def _server_user(name: str) -> str | None:
    """The user that runs the server if we are root, which the server refuses; None for the current user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


def _run(command: Sequence[str], user: str | None, folder: Path) -> None:
    process = subprocess.run(
        command,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        # A file, and no pipe: the server inherits it, and would keep it open.
        stdout=(output := (folder / "output").open("ab")),
        stderr=subprocess.STDOUT,
        timeout=PATIENCE + 5,
        check=False,
    )
    output.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {(folder / 'output').read_text()[-2000:]}")


def _shell(command: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(command, shell=True, check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)  # noqa: S602 - the user's own

    return run
