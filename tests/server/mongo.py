"""
A MongoDB server for the tests, or the reason why there is none.

``python3 tests/server/mongo.py make test`` runs ``make test`` with the address of a server in the
variable ``MLIP_AUTOPIPEC_TEST_MONGO_URI`` and stops the server afterwards, whatever happens. It takes

1. the server that the variable names already;
2. else ``mongod``, if it is installed;
3. else mongo-java-server, which is kept in the user's cache folder and put there by Maven the
   first time (6 MB). It needs a JDK of version 17 or later;
4. else none: the tests that need a server are then skipped.

Of what FireWorks, jobflow-remote, maggma and jobflow use, mongo-java-server 1.47 lacks updates by a pipeline, ``$set``
as a stage, ``$lookup`` with fields and a pipeline; and killed, it loses what it acknowledged within the last second.
MongoServer.java adds these. Sessions, transactions and change streams are still missing; jobflow-remote tries a
transaction when it upgrades the database of an older version, and does without.

FerretDB 1.24 with SQLite is of no use here: it refuses nested arrays (a cell, a matrix), drops the connection on NaN,
and lacks what ``lpad detect_lostruns`` asks for (``$elemMatch`` on documents, ``$lookup``).

Nothing but Python's standard library is used, as this runs before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NoReturn, Self

VARIABLE = "MLIP_AUTOPIPEC_TEST_MONGO_URI"
HERE = Path(__file__).resolve().parent
START_TIMEOUT_S, STOP_TIMEOUT_S, INSTALL_TIMEOUT_S = 180, 20, 400


class NoServerError(Exception):
    """There is no server to be had on this machine; the message says what is missing."""


class MongoServer:
    """
    A server of one's own on loopback, which can be stopped, killed and started again with its data.

    Parameters
    ----------
    folder
        Where the data and the log are kept. What was acknowledged is there after any end, also after :meth:`kill`.
    port
        On loopback; by default one that is free now, and the same each time this object starts.

    Raises
    ------
    NoServerError
        There is no server to be had on this machine.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        if port is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self.port = port
        self.command = server_command(folder, port)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Address of the server; a write is acknowledged once it is in the journal, which mongod does when asked."""
        return f"mongodb://127.0.0.1:{self.port}/?journal=true"

    def start(self) -> Self:
        """Start, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_in_a_session_of_its_own,  # noqa: PLW1509  # no threads run yet
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return self
        self.kill()
        raise RuntimeError(f"{self.command} does not answer:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to write everything and leave."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash of its machine would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def server_command(folder: Path, port: int) -> list[str]:
    """
    Return the command that serves the data of a folder on a port, installing what it needs.

    Raises
    ------
    NoServerError
        Neither ``mongod`` nor Java and Maven are here.
    """
    mongod = shutil.which("mongod")
    if mongod:
        return [mongod, "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
    if shutil.which("javac") is None:
        raise NoServerError("neither mongod nor a JDK (javac, for mongo-java-server) is installed")
    jars = install_jars()
    return ["java", "-Xmx1g", "-cp", f"{jars}/*", str(HERE / "MongoServer.java"), str(port), str(folder / "data.mv")]


def install_jars() -> Path:
    """Return the folder with mongo-java-server, filled by Maven the first time."""
    pom = HERE / "pom.xml"
    version = ET.parse(pom).findtext(".//{*}dependency/{*}version")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlip_autopipec"
    jars = cache / f"mongo-java-server-{version}"
    if jars.exists():
        return jars
    if shutil.which("mvn") is None:
        raise NoServerError("neither mongod nor Maven (mvn, to install mongo-java-server) is installed")
    cache.mkdir(parents=True, exist_ok=True)
    print(f"installing mongo-java-server {version} into {cache}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        command = ["mvn", "-q", "-B", "-f", str(pom), copy, f"-DoutputDirectory={folder}/jars"]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise NoServerError(f"Maven did not install mongo-java-server in {INSTALL_TIMEOUT_S} s") from error
        except subprocess.CalledProcessError as error:
            raise NoServerError(f"Maven could not install mongo-java-server:\n{error.stdout[-1000:]}") from error
        try:
            (Path(folder) / "jars").rename(jars)
        except OSError:  # another process was quicker
            if not jars.exists():
                raise
    return jars


def _in_a_session_of_its_own() -> None:
    os.setsid()  # Ctrl-C reaches the tests first, which may still need the server
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: it never outlives its starter


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(command: list[str]) -> int:
    """Run a command with a server."""
    signal.signal(signal.SIGTERM, _leave)
    if os.environ.get(VARIABLE):
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="mlip_autopipec_mongo_") as folder:
        try:
            server = MongoServer(Path(folder))
        except NoServerError as why:
            print(f"no MongoDB server, the tests that need one will be skipped: {why}", file=sys.stderr, flush=True)
            return subprocess.run(command, check=False).returncode
        with server:
            print(f"MongoDB server for the tests: {server.command[0]} at {server.uri}", file=sys.stderr, flush=True)
            return subprocess.run(command, check=False, env={**os.environ, VARIABLE: server.uri}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
