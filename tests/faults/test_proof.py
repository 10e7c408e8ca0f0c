"""A process is killed (SIGKILL) while walkers prove the final potential; the next one comes to the same result."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from faults.processes import MOMENTS, Death, open_any, start
from faults.proof import NAME, proof_of, proof_or_resume

from mlip_autopipec.flows.resume import last_document

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from pathlib import Path


def lives(context: ForkServerContext, folder: Path, *deaths: Death) -> int | None:
    log = folder / "processes" / "log"
    process = start(context, log, proof_or_resume, str(folder / "store"), folder / "jobs", deaths=deaths)
    process.join(400)
    assert process.exitcode in (0, -signal.SIGKILL), log.read_text()[-3000:]
    return process.exitcode


def test_killed_in_the_proof_it_ends_the_same(context: ForkServerContext, tmp_path: Path) -> None:
    deaths = [Death(moment, job) for job in ("explore c002 w00", "explore c002 w01") for moment in MOMENTS]
    deaths.append(Death("before", "assess c002"))
    found = {}
    for name, killed in (("whole", []), ("killed", deaths)):
        folder = tmp_path / name
        (folder / "store").mkdir(parents=True)
        for _ in killed:
            assert lives(context, folder, *killed) == -signal.SIGKILL
        assert lives(context, folder, *killed) == 0
        store = open_any(str(folder / "store"))
        final = last_document(NAME, store)
        walkers = [(w.status, w.seed, w.replica, w.step, w.n_halts) for w in final.walkers]
        found[name] = (final.status, final.n_cycles, final.n_labels, walkers, proof_of(store))
        store.close()
    assert found["whole"][:2] == ("CONVERGED", 2)
    assert len(found["whole"][-1]) == 2
    assert found["killed"] == found["whole"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
