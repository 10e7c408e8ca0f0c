"""
Runs the jobs of jobflow-remote's workers in forks of one process that has imported everything.

``execution_cmd`` of a worker of the tests is ``python remote_worker.py <socket> {}``, where the command by default is
``jf -fe execution run {}``: the same function runs, without seconds of imports for each job.

``python remote_worker.py <socket>`` is that process. Jobs named in the variable DEATHS die there by SIGKILL, once:
``running <name>`` before there is a document, ``stored <name>`` after it was written and before the runner is told.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any


def ask(address: str, folder: str) -> None:
    """Let the process behind a socket run the job of a folder, and wait for its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [folder.encode()], [1, 2])
        connection.recv(1)  # nothing comes: the job's process holds the other end until it is gone


def serve(address: str) -> None:
    """Run a job in a fork for each connection, until terminated."""
    import campaign_workers  # noqa: F401
    from jobflow_remote.jobs.run import run_remote_job

    import mlip_autopipec.testing  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                folder, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
                for number, descriptor in enumerate(descriptors, start=1):
                    os.dup2(descriptor, number)
                die_where_told()
                try:
                    run_remote_job(folder.decode())
                finally:
                    sys.stdout.flush()
                    os._exit(0)
            connection.close()


def die_where_told() -> None:
    """Let DEATHS come true, each of them once."""
    from jobflow import Job

    run = Job.run

    def die(self: Job, moment: str) -> None:
        marker = Path(os.environ["DEATHS_NOTED"]) / f"{moment} {self.name}"
        if marker.name in json.loads(os.environ["DEATHS"]) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def run_or_die(self: Job, *args: Any, **kwargs: Any) -> Any:
        die(self, "running")
        response = run(self, *args, **kwargs)
        die(self, "stored")
        return response

    Job.run = run_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        ask(sys.argv[1], sys.argv[2])
    else:
        serve(sys.argv[1])
