"""A database server of a test's own: to restart, and to set up otherwise than the shared one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests import services

PATIENCE = 60.0
"""Seconds for a server to start or to stop."""


class MariadbServer:
    """A MariaDB as its makers set it up, on the loopback; its user ``root`` has no password, its database is ``test``.

    Its data outlives a stop. It reads no configuration, and where the tests are run by root it is not.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self._port = unused.getsockname()[1]
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = next(filter(None, map(_user, ("mysql", "nobody"))))
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={folder}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
            **self._user,
        )

    @property
    def url(self) -> URL:
        """The database."""
        return URL.create("mariadb+pymysql", "root", host="127.0.0.1", port=self._port, database="test")

    def start(self, *options: str) -> None:
        """Start the server, and wait until it answers."""
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    _program("mariadbd"),
                    "--no-defaults",
                    f"--datadir={self._folder}/data",
                    f"--socket={self._folder}/socket",
                    f"--pid-file={self._folder}/pid",
                    "--bind-address=127.0.0.1",
                    f"--port={self._port}",
                    "--skip-name-resolve",
                    *self._options,
                    *options,
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._user,
            )
        _wait_until(self._answers)

    def stop(self) -> None:
        """Shut it down in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
        # Imported here: on a machine without a server the driver may be absent too.
        import pymysql

        try:
            with closing(pymysql.connect(host="127.0.0.1", port=self._port, user="root")) as admin:
                admin.cursor().execute("CREATE DATABASE IF NOT EXISTS test")
        except pymysql.OperationalError:
            return False
        return True


@contextmanager
def mariadb_server(*options: str) -> Iterator[MariadbServer]:
    """A server that is not started yet; stopped and thrown away at the end."""
    if shutil.which("mariadbd", path=_PATH) is None:
        services.missing("no mariadbd on the path: install MariaDB's server, e.g. Debian's package mariadb-server")
    pytest.importorskip("pymysql")
    # Not pytest's folder: the server's user must get there, and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="otel-storage-mariadb.", dir="/tmp"))
    server = MariadbServer(folder, options)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
"""Debian keeps servers where not every user's path leads."""


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None, name
    return found


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
