"""What a campaign would do, and what it may cost, before it is run (``run --dry-run``)."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units

from mlip_autopipec.cli.base import console
from mlip_autopipec.cli.cautions import cautions
from mlip_autopipec.cli.local import check_engine
from mlip_autopipec.errors import ExecutableError, LabelError
from mlip_autopipec.flows.parts import atoms_for
from mlip_autopipec.jobs.teach import DISPLACED, label_by, told_calculator
from mlip_autopipec.kinds import ORACLES
from mlip_autopipec.lammps.bias import begins_biased
from mlip_autopipec.lammps.executable import has_launcher
from mlip_autopipec.runfile.starts import started_by, started_by_environment
from mlip_autopipec.sampling.seeds import enough_structures
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.periodicity import boxed, goes_on_along
from mlip_autopipec.structures.provenance import Origin, Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.jobs.teach import TeachMaker
    from mlip_autopipec.runfile.model import RunFile

#: Pressure in GPa from which on a structure is remarked on.
_MUCH_GPA = 4.0


@dataclass(frozen=True)
class Plan:
    """
    What a campaign would do at most.

    Parameters
    ----------
    structures
        Formula of each structure with its number of atoms, and of those that are frozen.
    elements
        Of all structures and given labels.
    n_walkers, n_steps, md_ns
        MD runs, steps of each, and how long all are together in ns.
    md_atom_steps
        Steps times atoms over all walkers.
    first_labels, labels_per_cycle, most_labels
        Labels to begin with, at most in a cycle, at most in all.
    validation_labels
        Evaluations of the oracle for its own MD at the end.
    label_atoms
        Atoms of the largest structure of the first dataset.
    label_seconds
        Measured wall time of one label of that size on this machine in s; None where it was not measured.
    pressure_GPa
        By the oracle, of the structure as it is given in GPa; None where that was not what was computed.
    oracle_hours
        ``label_seconds`` times labels and evaluations, one after the other, in h.
    teacher_seconds
        Measured wall time of one evaluation of the teacher for a structure of that size in s; None where there is no
        teacher with a calculator, and where it was not measured.
    teacher_hours
        That times all steps of its MD and its other labels, in h.
    starts
        What the run file starts beside this program, one line each.
    programs
        Programs of this machine that the campaign starts, by its environment.
    notes
        What else to know.
    """

    structures: list[str]
    elements: list[str]
    n_walkers: int
    n_steps: int
    md_ns: float
    md_atom_steps: int
    first_labels: int
    labels_per_cycle: int
    most_labels: int
    validation_labels: int
    label_atoms: int
    label_seconds: float | None
    pressure_GPa: float | None
    oracle_hours: float | None
    teacher_seconds: float | None
    teacher_hours: float | None
    starts: list[str]
    programs: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self)


def plan(campaign: RunFile, *, measure: bool | None = None) -> Plan:
    """
    Work out what a campaign would do, without running it.

    Parameters
    ----------
    campaign
        The run file; refused for what ``run`` refuses.
    measure
        Whether to compute one label for its time, by the teacher as well; None does so for kinds of seconds.
    """
    structures, conditions = [boxed(atoms) for atoms in campaign.load_structures()], campaign.load_conditions()
    campaign.flow()
    labels, maker = campaign.load_labels(), campaign.maker()
    limit = maker.propose_maker.cutouts.max_atoms
    first = [] if labels else campaign.make_first()
    rule, settings = maker.stop_rule, maker.dynamics_maker.settings
    n_walkers = len(structures) * len(conditions)
    # a check that fails is followed by a cycle without one
    per_cycle = max(campaign.selection.n_max, (rule.frames_of(n_walkers) + 1) // 2)
    n_first = len(labels) or len(first)
    most = n_first + rule.max_cycles * per_cycle
    if rule.max_labels is not None:
        most = min(most, len(labels) + rule.max_labels)
    n_steps = settings.n_steps + (settings.of_walk(is_biased=True).n_steps if begins_biased(settings) else 0)
    validation = campaign.validation_settings()
    n_validation = 0 if validation is None else n_walkers * validation.n_frames * validation.interval_steps
    largest = max(first or [atoms for atoms in structures if len(atoms) <= limit] or labels, key=len)
    is_measured = ORACLES[campaign.oracle.kind].cost != "hours" if measure is None else measure
    of_teacher = _measured_teacher(campaign, largest, measure)
    seconds, pressure = _measured_label(campaign, largest) if is_measured else (None, None)
    computed = most - len(labels) + n_validation
    return Plan(
        structures=[_told(atoms) for atoms in structures],
        elements=sorted({symbol for atoms in [*structures, *labels] for symbol in atoms.get_chemical_symbols()}),
        n_walkers=n_walkers,
        n_steps=n_steps,
        md_ns=n_walkers * n_steps * settings.timestep_fs * 1e-6,
        md_atom_steps=n_steps * len(conditions) * sum(map(len, structures)),
        first_labels=n_first,
        labels_per_cycle=per_cycle,
        most_labels=most,
        validation_labels=n_validation,
        label_atoms=len(largest),
        label_seconds=seconds,
        pressure_GPa=pressure,
        oracle_hours=None if seconds is None else seconds * computed / 3600,
        teacher_seconds=of_teacher,
        teacher_hours=None if of_teacher is None else of_teacher * _evaluations(maker.teach_maker) / 3600,
        starts=started_by(campaign),
        programs=started_by_environment(campaign),
        notes=[*cautions(campaign), *_strained(campaign, pressure), *_notes(campaign, first)],
    )


def _told(atoms: Atoms) -> str:
    n = len(frozen_atoms(atoms))
    return f"{atoms.get_chemical_formula()} ({len(atoms)} atoms{f', {n} of them frozen' if n else ''})"


def _notes(campaign: RunFile, first: Sequence[Atoms]) -> list[str]:
    """Say what is likely to go wrong: an engine that is not here, too few atoms for the basis."""
    notes = []
    try:
        if not has_launcher():  # which may wait for a batch job
            check_engine(campaign)
    except ExecutableError as error:
        notes.append(f"dynamics.engine is executable: {error}; run refuses it on this machine")
    notes += _about_n_atoms(campaign, first)
    functions = getattr(campaign.trainer.basis, "number_of_functions_per_element", None)
    if functions is None or not first:
        return notes
    train = [atoms for atoms in first if Provenance.of(atoms).split is Split.TRAIN]
    for element in sorted({symbol for atoms in train for symbol in atoms.get_chemical_symbols()}):
        n = sum(atoms.get_chemical_symbols().count(element) for atoms in train)
        if n < functions:
            notes.append(
                f"the first dataset holds {n} atoms of {element} for {functions} basis functions; the active set needs "
                "as many atoms as functions, better four times as many: raise first_dataset.n_structures"
            )
    return notes


def _about_n_atoms(campaign: RunFile, first: Sequence[Atoms]) -> list[str]:
    """Say where ``first_dataset.n_atoms``, given by the user, does not decide how many structures there are."""
    given = campaign.first_dataset
    if "n_atoms" not in given.model_fields_set or not first:
        return []
    if given.n_structures is not None:
        return ["first_dataset.n_atoms has no effect beside n_structures; leave one of them out"]
    cells = [atoms for atoms in first if Provenance.of(atoms).origin == Origin.SEED_IDEAL]
    elements = sorted({symbol for atoms in cells for symbol in atoms.get_chemical_symbols()})
    of_basis = atoms_for(campaign.maker().train_maker.trainer, elements) if cells else 0
    asked, made = enough_structures(cells, given.n_atoms), enough_structures(cells, given.n_atoms, of_basis)
    if made == asked:
        return []
    told = (
        f"first_dataset.n_atoms is {given.n_atoms}, which {asked} labels of each structure hold; the basis asks for "
        f"{of_basis} atoms of each element, four for each function, so {made} are made of each (n_structures sets "
        "their number)"
    )
    return [told]


def _strained(campaign: RunFile, pressure_GPa: float | None) -> list[str]:
    """Say where a structure is not the oracle's: a lattice constant from elsewhere puts MD under pressure unasked."""
    if pressure_GPa is None or abs(pressure_GPa) < _MUCH_GPA or campaign.dynamics.ensemble == "npt":
        return []
    kind = campaign.oracle.kind
    told = (
        f"by {kind} the structure is under {pressure_GPa:.1f} GPa as it is given, and MD at constant volume stays "
        f"there; if this is not intended, give the lattice constant of {kind}, or set dynamics.ensemble: npt"
    )
    return [told]


def _measured_label(campaign: RunFile, atoms: Atoms) -> tuple[float, float | None]:
    """Compute one label; return its seconds, and the pressure in GPa if it is of the undistorted crystal."""
    oracle = campaign.maker().oracle_maker
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        started = time.perf_counter()
        label = oracle.compute(atoms).atoms
        seconds = time.perf_counter() - started
    results = {} if label.calc is None else label.calc.results
    if (
        Provenance.of(atoms).origin != Origin.SEED_IDEAL
        or not goes_on_along(atoms).all()
        or results.get("stress") is None
    ):
        return seconds, None
    return seconds, float(-np.mean(label.get_stress(voigt=False).diagonal()) / units.GPa)


def _measured_teacher(campaign: RunFile, atoms: Atoms, measure: bool | None) -> float | None:
    """Compute one label by the teacher; return its seconds, None where it is not computed."""
    teacher, maker = campaign.teacher, campaign.maker().teach_maker
    if teacher is None or teacher.kind is None or maker is None or maker.static_maker is None:
        return None
    if not (ORACLES[teacher.kind].cost != "hours" if measure is None else measure):
        return None
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        started = time.perf_counter()
        try:
            label_by(maker.static_maker, atoms)
        except Exception as error:  # of any class of calculators
            raise LabelError(
                f"the teacher {told_calculator(maker.static_maker)} could not compute {atoms.get_chemical_formula()}: "
                f"{type(error).__name__}: {str(error)[:300]}. Mend the section teacher of the run file, take another "
                "one, or leave it out"
            ) from error
        return time.perf_counter() - started


def _evaluations(maker: TeachMaker | None) -> float:
    """Return how often the calculator of a teacher is called: in each step of its MD, and once for other labels."""
    if maker is None:
        return 0.0
    n_displaced = DISPLACED * maker.n_labels
    return n_displaced + (maker.n_labels - n_displaced) * maker.interval_steps


@contextmanager
def _inside(folder: str | Path) -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _cost(seconds: float | None, hours: float | None, kind: str) -> str:
    """Say what all labels of an oracle or a teacher may cost."""
    if seconds is None or hours is None:
        return f"unknown: a label of {kind} was not computed (--measure computes one)"
    total = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    return f"{seconds:.2g} s a label (measured), {total} at most, one after the other"


def show(campaign: RunFile, found: Plan) -> None:
    """Print a plan."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(campaign.name)}: what would run", show_header=False)
    table.add_row("structures", escape(", ".join(found.structures)))
    at = ", ".join(f"{condition.temperature_K:g} K" for condition in campaign.load_conditions())
    table.add_row("MD at most", f"{found.n_walkers} walker(s) of {found.n_steps} steps, at {at}: {found.md_ns:.3g} ns")
    if (teacher := campaign.teacher) is not None:
        model = str(teacher.maker.get("calculator_class") or teacher.kind).rpartition(".")[2]
        free = f"{teacher.n_labels} labels by {model}, of its MD and of displaced structures, free"
        free = free if teacher.kind else str(teacher.potential)
        table.add_row("teacher", escape(free))
        if teacher.kind is not None:
            table.add_row("cost of the teacher", _cost(found.teacher_seconds, found.teacher_hours, teacher.kind))
    table.add_row("first dataset", f"{found.first_labels} labels, of up to {found.label_atoms} atoms")
    table.add_row("then per cycle", f"up to {found.labels_per_cycle} labels, {campaign.stop.max_cycles} cycles at most")
    table.add_row("labels at most", str(found.most_labels))
    if found.validation_labels:
        table.add_row("validation", f"{found.validation_labels} MD steps of the oracle itself")
    kind = campaign.oracle.kind
    table.add_row(f"cost of {kind}", _cost(found.label_seconds, found.oracle_hours, kind))
    table.add_row(
        "cost of MD", f"{found.md_atom_steps:.3g} atom-steps at most; not measured, docs/benchmarks.md has rates"
    )
    table.add_row("starts", "\n".join(map(escape, [*found.programs, *found.starts])) or "no other program")
    console.print(table)
    for note in found.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
