"""The explore job: a walk whose wall time is over goes on in a further job, from LAMMPS' own restart file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
from ase.build import bulk
from jobflow import Flow, run_locally

from mlip_autopipec.errors import ExecutableError, ExplorationError, RestartFileError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.assess import update_state
from mlip_autopipec.jobs.dataset import import_potential
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker, _filled, never_warm
from mlip_autopipec.lammps import executable
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.records import COLUMNS, FrameRecord, Trace
from mlip_autopipec.lammps.types import Condition, MDSettings, WalkStatus
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.loop import LoopState, WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import ScriptedDynamicsMaker, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms
    from jobflow import Job, JobStore

    from mlip_autopipec.lammps.types import Engine, ExplorationResult
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.loop import OTFDocument

RAMP, CONSTANT = Condition(300.0, temperature_end_K=500.0), Condition(300.0, pressure_GPa=1.0)


@pytest.fixture(params=["library", "executable"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "executable":
        try:
            executable.find_command()
        except ExecutableError as error:
            pytest.skip(str(error))
    return request.param


class InParts(LammpsDynamicsMaker):
    """The real maker; the wall time is over after each ``length`` steps, whatever the machine's speed."""

    length: int = 30

    def explore(self, walker, potential, atoms, restart_file) -> ExplorationResult:
        end = walker.step + self.length
        if end >= self.settings.n_steps:
            return super().explore(walker, potential, atoms, restart_file)
        part = replace(walker.condition, temperature_end_K=walker.condition.temperature_at(end / self.settings.n_steps))
        result = run_exploration(
            atoms,
            potential.to_potential(),
            part,
            replace(self.settings, n_steps=end),
            start_step=walker.step,
            seed=walker.seed,
            restart_file=restart_file,
            engine=self.engine,
        )
        if result.status is WalkStatus.CONVERGED:
            result.status = WalkStatus.TIMED_OUT
        return result


def walk(
    maker: LammpsDynamicsMaker, condition: Condition, potential: ACEPotential, store: JobStore, root: Path
) -> list[WalkDocument]:
    """Run one walker in jobs; return all documents of its walk."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=2)
    starts, given = inputs(atoms, potential)
    walker = WalkerState(index=0, formula="Cu32", condition=condition, seed=4, start_id=starts.uuid)
    job = maker.make(walker, given.output, "c", 0, start=starts.output)
    return run_here([starts, given, job], store, root)


def inputs(atoms: Atoms, potential: ACEPotential) -> tuple[Job, Job]:
    document = PotentialDocument.from_potential(potential).model_dump(mode="json")
    return OTFMaker().record(CampaignDocument.of([atoms], [], uuid4().hex)), import_potential(document, "c", None)


def run_here(jobs: list[Job], store: JobStore, root: Path) -> list[WalkDocument]:
    """Run jobs and return all documents of the last one."""
    root.mkdir()
    run_locally(Flow(jobs), store=store, create_folders=True, root_dir=root, log=False)
    found = store.query({"uuid": jobs[-1].uuid}, ["output", "index"], sort={"index": 1}, load=True)
    return [WalkDocument.model_validate(d["output"]) for d in found]


@pytest.mark.parametrize(
    ("engine", "ensemble", "condition"),
    [("library", "nvt", RAMP), ("executable", "nvt", RAMP), ("executable", "npt", CONSTANT)],
    indirect=["engine"],
)
def test_a_walk_in_parts_is_the_walk_in_one(
    copper_potential: ACEPotential,
    memory_jobstore: JobStore,
    tmp_path: Path,
    engine: Engine,
    ensemble: Any,
    condition: Condition,
) -> None:
    """
    Thermostat, ramp and barostat go on as if nothing had happened; the last document speaks for all parts.

    Not so a ramp in npt: LAMMPS weighs its barostat by the temperature a run begins with.
    """
    settings = MDSettings(n_steps=60, gamma_every=5, gamma_lo=1e-3, gamma_hi=1e9, max_frames=4, ensemble=ensemble)
    in_parts, in_one = (cls(settings=settings, engine=engine) for cls in (InParts, LammpsDynamicsMaker))
    parts = walk(in_parts, condition, copper_potential, memory_jobstore, tmp_path / "parts")
    (whole,) = walk(in_one, condition, copper_potential, memory_jobstore, tmp_path / "whole")
    assert [(p.status, p.step, p.n_parts) for p in parts] == [("TIMED_OUT", 30, 1), ("CONVERGED", 60, 2)]
    last = parts[-1]
    assert last.start_step == whole.start_step == 0
    assert last.seconds > parts[0].seconds
    for name, column in whole.payload["trace"].items():
        assert np.allclose(last.payload["trace"][name], column, rtol=1e-9, atol=1e-9), name
    assert np.abs(last.final_atoms().get_velocities() - whole.final_atoms().get_velocities()).max() < 1e-10
    assert np.abs(last.final_atoms().cell.array - whole.final_atoms().cell.array).max() < 1e-10
    assert 0 < last.n_frames <= 4
    steps = [frame.info["step"] for frame in last.dumped_frames()]
    assert steps == sorted(set(steps))
    assert min(steps) < 30 < max(steps)


def test_the_clock_ends_a_run_and_it_goes_on(copper_potential: ACEPotential, tmp_path: Path, engine: Engine) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    settings = MDSettings(n_steps=10**8, gamma_every=5, gamma_lo=1e9, gamma_hi=1e9, wall_time_s=2.0)
    kwargs = {"engine": engine, "directory": tmp_path, "seed": 1}
    first = run_exploration(atoms, copper_potential, Condition(50.0), settings, **kwargs)
    assert (first.status, first.halt) == (WalkStatus.TIMED_OUT, None)
    assert 5 < first.step < 10**8
    assert first.step % 5 == 0
    assert first.trace["step"][0] == 0
    assert first.restart_file is not None
    settings = replace(settings, n_steps=first.step + 20, wall_time_s=1000.0)
    kwargs |= {"restart_file": first.restart_file, "start_step": first.step}
    rest = run_exploration(first.final, copper_potential, Condition(50.0), settings, **kwargs)
    assert (rest.status, rest.step) == (WalkStatus.CONVERGED, first.step + 20)
    assert rest.trace["potential_energy_eV"][0] == pytest.approx(energy_of(first.final, copper_potential), abs=1e-9)


def energy_of(atoms, potential: ACEPotential) -> float:
    atoms = atoms.copy()
    atoms.calc = potential.calculator()
    return atoms.get_potential_energy()


def test_no_step_within_the_wall_time_is_an_error(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """Else it would go on in circles for ever."""
    settings = MDSettings(n_steps=100, wall_time_s=1e-6)
    with pytest.raises(ExplorationError, match=r"wall time of 1e-06 s(?s:.*)step 0"):
        run_exploration(
            with_velocities(bulk("Cu", cubic=True), 300, 1),
            copper_potential,
            Condition(300.0),
            settings,
            engine="library",
            directory=tmp_path,
        )


def test_a_halt_keeps_the_thermostat(
    copper_potential: ACEPotential, memory_jobstore: JobStore, tmp_path: Path, engine: Engine
) -> None:
    """A walk resumed after its halt, here with the same potential, is the walk that never halted."""
    settings = MDSettings(n_steps=120, gamma_every=5, gamma_lo=0.5, gamma_hi=0.75)
    hot = Condition(1500.0, temperature_end_K=3000.0)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    starts, given = inputs(atoms, copper_potential)
    walker = WalkerState(index=0, formula="Cu32", condition=hot, seed=4, start_id=starts.uuid)
    first = LammpsDynamicsMaker(settings=settings, engine=engine).make(walker, given.output, "c", 0, starts.output)
    (halted,) = run_here([starts, given, first], memory_jobstore, tmp_path / "first")
    assert (halted.status, halted.reason) == ("HALTED", "gamma")
    assert 0 < halted.step < 100
    wide = replace(settings, gamma_hi=1e9)
    walker = walker.model_copy(update={"walk_id": first.uuid, "step": halted.step, "n_halts": 1})
    second = LammpsDynamicsMaker(settings=wide, engine=engine).make(walker, given.uuid, "c", 1)
    (resumed,) = run_here([second], memory_jobstore, tmp_path / "second")
    whole = run_exploration(atoms, copper_potential, hot, wide, engine=engine, directory=tmp_path, seed=walker.seed)
    offset = whole.trace["step"].index(halted.step)
    assert resumed.start_step == halted.step
    for name in ("step", "potential_energy_eV", "temperature_K", "gamma_max"):
        assert np.allclose(resumed.payload["trace"][name], whole.trace[name][offset:], rtol=1e-7, atol=1e-7), name


class UnreadableRestart(LammpsDynamicsMaker):
    """The real maker with restart files of another version: one flag of the header is unknown."""

    def explore(self, walker, potential, atoms, restart_file) -> ExplorationResult:
        if restart_file is not None:
            path = Path(restart_file)
            content = bytearray(path.read_bytes())
            at = content.index(b"LammpS RestartT") + 16 + 3 * 4
            content[at : at + 4] = (77).to_bytes(4, "little")
            path.write_bytes(bytes(content))
        return super().explore(walker, potential, atoms, restart_file)


def test_a_restart_file_of_a_newer_lammps(
    copper_potential: ACEPotential,
    memory_jobstore: JobStore,
    tmp_path: Path,
    tmp_cwd: Path,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The walk goes on from positions and velocities; given by a user, the file is an error that says why."""
    settings = MDSettings(n_steps=20, gamma_every=5, gamma_lo=1e9, gamma_hi=1e9)
    maker = UnreadableRestart(settings=settings, engine=engine)
    atoms = with_velocities(bulk("Cu", cubic=True) * (2, 2, 2), 300, seed=1)
    half = run_exploration(
        atoms, copper_potential, CONSTANT, replace(settings, n_steps=10), engine=engine, directory=tmp_path
    )
    walker = WalkerState(index=0, formula="Cu32", condition=CONSTANT, seed=4, step=10, walk_id="earlier")
    (earlier,) = [_filled(WalkDocument(uuid="earlier", walker=0, status="NOT_RUN"), half)]
    memory_jobstore.update({"uuid": "earlier", "index": 1, "output": earlier.model_dump(mode="json")}, save=True)
    _, given = inputs(atoms, copper_potential)
    (resumed,) = run_here([given, maker.make(walker, given.output, "c", 1)], memory_jobstore, tmp_path / "resumed")
    assert (resumed.status, resumed.step) == ("CONVERGED", 20)
    assert "without the state of the thermostat" in caplog.text
    assert resumed.payload["trace"]["potential_energy_eV"][0] == pytest.approx(
        energy_of(half.final, copper_potential), abs=1e-9
    )
    if engine == "library":
        return  # the same message, and starting the engine takes a second
    document = PotentialDocument.from_potential(copper_potential)
    with pytest.raises(RestartFileError, match="cannot read its restart file"):
        maker.explore(walker, document, None, str(half.restart_file))


def test_a_part_that_died_is_taken_up_where_the_last_one_ended() -> None:
    walker = WalkerState(index=0, formula="Cu", condition=CONSTANT, seed=1, n_repeats=1)
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[walker])
    part = WalkDocument(uuid="w", walker=0, status="TIMED_OUT", step=40, n_parts=2)
    (after,) = update_state(state, [part], [0], None, None).walkers
    assert (after.status, after.reason, after.step, after.walk_id) == ("HALTED", "timed_out", 40, "w")
    assert (after.n_halts, after.n_repeats) == (0, 0)
    again = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[after])
    (stuck,) = update_state(again, [None], [0], None, None).walkers
    assert (stuck.walk_id, stuck.step, stuck.n_repeats) == ("w", 40, 1)  # nothing learnt counts towards a stall


@dataclass
class DiesInItsSecondPart(ScriptedDynamicsMaker):
    """The wall time is over at step 50; the job that goes on from there dies the first time, or all with it."""

    mark: str = ""
    ctrl_c: bool = False

    def explore(self, walker, potential, atoms, restart_file) -> ExplorationResult:
        if walker.step == 50 and not Path(self.mark).exists():
            Path(self.mark).touch()
            if self.ctrl_c:
                raise KeyboardInterrupt
            raise ExplorationError("killed by the queue")
        result = super().explore(walker, potential, atoms, restart_file)
        if walker.step == 0:
            result.status, result.step = WalkStatus.TIMED_OUT, 50
        return result


def test_the_loop_takes_up_a_part_that_died(run_loop: Callable[[Flow], OTFDocument], tmp_path: Path) -> None:
    """In the next cycle and from step 50, without buying labels for it."""
    events = str(tmp_path / "events.log")
    maker = stand_in_loop(events, dynamics_maker=DiesInItsSecondPart(mark=str(tmp_path / "mark")))
    document = run_loop(maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300))
    assert (document.status, document.n_cycles, document.n_halts) == ("CONVERGED", 1, 0)
    steps = Path(events).read_text().split("\n")
    assert [s for s in steps if "w0" in s] == ["start w0 0", "finish w0 10000", "restart w0 50", "finish w0 10000"]
    assert not [s for s in steps if s.startswith("select")]


def test_a_campaign_that_broke_off_goes_on_after_the_last_whole_part(
    run_loop: Callable[[Flow], OTFDocument], memory_jobstore: JobStore, tmp_path: Path
) -> None:
    """In the same cycle, and as the same walk."""
    events = str(tmp_path / "events.log")
    maker = stand_in_loop(events, dynamics_maker=DiesInItsSecondPart(mark=str(tmp_path / "mark"), ctrl_c=True))
    with pytest.raises(KeyboardInterrupt):
        run_loop(maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300, campaign_id="c"))
    document = run_loop(OTFMaker.resume("c", memory_jobstore))
    assert (document.status, document.n_cycles, document.n_halts) == ("CONVERGED", 0, 0)
    steps = Path(events).read_text().split("\n")
    assert [s for s in steps if "w0" in s] == ["start w0 0", "finish w0 10000", "start w0 50", "finish w0 10000"]
    (found,) = memory_jobstore.query({"uuid": document.walkers[0].walk_id}, ["output"])
    walk = WalkDocument.model_validate(found["output"])
    assert (walk.n_parts, walk.start_step, walk.step, walk.restart_of) == (2, 0, 10000, None)


def test_what_parts_leave_is_bounded() -> None:
    columns = {name: list(range(1500)) for name in COLUMNS}
    later = {name: list(range(1499, 2999)) for name in COLUMNS}
    joined = Trace.joined(columns, later)
    assert joined["step"] == list(range(0, 2999, 2))  # 1499 is in both
    frames = [bulk("Cu") for _ in range(9)]
    for step, frame in enumerate(frames):
        frame.info["step"] = step
    assert [f.info["step"] for f in FrameRecord.joined(frames[:5], frames[4:], 5)] == [0, 2, 4, 6, 8]
    assert FrameRecord.joined(frames, [], 0) == []


@pytest.mark.parametrize(
    ("temperatures", "ensemble", "told"),
    [
        ([1e-7] * 10, "nvt", True),
        ([1e-7] * 10, "nve", False),
        ([1e-7] * 3, "nvt", False),
        ([250.0, *[700.0] * 9], "nvt", False),
    ],
)
def test_a_walk_that_stays_cold_proves_nothing(temperatures, ensemble, told):
    said = never_warm(temperatures, Condition(1200), ensemble)
    assert (said is not None and "1200 K were asked for" in said) == told


def test_a_walk_begins_with_velocities_of_its_own_temperature(copper_potential, monkeypatch):
    """Campaigns of version 0.1.0 stored the velocities that a structure came with."""
    frozen = bulk("Cu", cubic=True) * (2, 2, 2)
    frozen.set_momenta(np.zeros((32, 3)))
    seen = []
    monkeypatch.setattr("mlip_autopipec.jobs.explore.current_uuid", lambda: "walk")

    class Looking(LammpsDynamicsMaker):
        def explore(self, walker, potential, atoms, restart_file):
            seen.append(atoms)
            raise KeyboardInterrupt

    start = CampaignDocument.of([frozen], [Condition(300)], "c")
    walker = WalkerState(index=0, formula="Cu32", condition=Condition(300), seed=1)
    potential = PotentialDocument.from_potential(copper_potential)
    with pytest.raises(KeyboardInterrupt):
        Looking.make.original(Looking(), walker, potential, "c", 0, start)
    assert not seen[0].has("momenta")
