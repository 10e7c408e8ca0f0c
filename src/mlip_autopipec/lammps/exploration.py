"""One MD run that halts on gamma: input is checked, an engine runs it in a process of its own."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.errors import ExecutableError, ExplorationError, InvalidInputError
from mlip_autopipec.lammps import executable, input_script, library
from mlip_autopipec.lammps.cell import check_ensemble
from mlip_autopipec.lammps.colvars import STYLE, check_atoms
from mlip_autopipec.lammps.swaps import can_swap
from mlip_autopipec.lammps.types import ExplorationResult, HaltReason, HaltStructure, WalkStatus
from mlip_autopipec.structures.distances import MD_RATIO, shortest_contact, told_contact
from mlip_autopipec.structures.electrons import MOMENTS, take_over
from mlip_autopipec.structures.frozen import FROZEN, freeze, frozen_atoms
from mlip_autopipec.structures.periodicity import Shape, boxed, check_cell, gathered, shape_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.active_learning.coverage import Coverage
    from mlip_autopipec.lammps.types import Condition, Engine, MDSettings
    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)


def run_exploration(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    *,
    start_step: int = 0,
    seed: int = 0,
    restart_file: str | Path | None = None,
    engine: Engine = "auto",
    coverage: Coverage | None = None,
    directory: str | Path = ".",
) -> ExplorationResult:
    """
    Run MD from ``start_step`` to ``settings.n_steps``, to the first halt, or until the wall time is over.

    The engine runs in a process of its own, in a folder below ``directory``.

    Parameters
    ----------
    atoms
        Structure to start from. Vacuum is added along directions that are not periodic. Atoms that its array
        ``frozen`` marks do not move. Velocities are kept where it has them, else drawn from a
        Maxwell-Boltzmann distribution with ``seed``. With a ``restart_file`` it only tells how the
        cell is oriented; without one there the result is in LAMMPS' own orientation.
    potential
        With its active set.
    condition
        Temperature (K) and pressure (GPa).
    settings
        How to run and when to halt.
    start_step
        Steps already done, for a resumed run.
    seed
        For the velocities and the exchanges of atoms.
    restart_file
        A LAMMPS restart file to go on from, with the state of the thermostat and barostat; its
        atom types 1, 2, ... are the potential's elements in alphabetical order.
    engine
        ``library``: LAMMPS as a Python library with forces from pyace. ``executable``: the
        ``lmp`` command with ``pair_style pace/extrapolation``. ``auto``: the executable where it has that style (it
        cannot run GRACE-FS) and, for a condition with ``colvars``, that fix; else the library, as always with
        ``max_force_std_eV_A`` or ``bias``.
    coverage
        Pairs and triplets of elements in the training set: a start structure with others halts at once.
    directory
        Where the run folder is made.

    Raises
    ------
    InvalidInputError
        For invalid input, before anything is run.
    ExplorationError
        If the MD process crashed, its LAMMPS computes something else than pyace, or the wall time
        was over before the first step; the message names the folder and ends with the log.
    """
    settings.check()
    if atoms is not None:
        check_structure(atoms)
        atoms = boxed(atoms)
    settings = settings.begun_with(None if atoms is None else atoms.get_volume())
    if engine not in ("auto", "library", "executable"):
        raise InvalidInputError(f"engine is {engine!r}; auto, library and executable are known")
    _check_input(atoms, potential, condition, settings, start_step, restart_file)
    input_script.check_template(potential.elements, condition, settings, engine)
    if settings.needs_posterior:
        check_error_halt(settings, engine)
        if potential.posterior is None:
            raise InvalidInputError.of(
                f"MDSettings.{settings.needs_posterior}",
                "is given, but the potential has no error bars; train it with LinearACETrainer, or leave this setting "
                "out",
            )
    engine, _ = engine_taken(engine, condition, settings, atoms, grace=potential.is_grace)
    if engine == "executable" and settings.swap is not None and atoms is not None and MOMENTS in atoms.arrays:
        raise InvalidInputError.of(
            "MDSettings.swap",
            f"is given, and {atoms.get_chemical_formula()} has magnetic moments, which the lmp executable does not "
            "exchange with the elements; use engine: library",
        )
    if engine == "executable":
        potential.refuse_grace(f"pair_style {executable.STYLE} of the executable engine")
    if atoms is not None and restart_file is None:
        atoms = with_velocities(atoms, condition.temperature_at(start_step / settings.n_steps), seed)
        halted = _unseen(atoms, potential, coverage, start_step)
        if halted is not None:
            return halted
    run = {"library": library.run, "executable": executable.run}[engine]
    started = time.perf_counter()
    result = run(
        atoms,
        potential,
        condition,
        settings,
        start_step=start_step,
        restart_file=None if restart_file is None else Path(restart_file).resolve(),
        directory=Path(directory),
        seed=seed,
    )
    if result.swaps is not None and result.swaps.attempted:
        logger.info("%d of %d exchanges of atoms were accepted", result.swaps.accepted, result.swaps.attempted)
    result.seconds = time.perf_counter() - started
    result.engine = engine
    if atoms is not None and FROZEN in atoms.arrays:
        _mark_frozen(result, frozen_atoms(atoms))
    if atoms is not None:  # LAMMPS knows nothing of electrons, and the labels of its frames need them
        for frame in {id(f): f for f in (result.final, *result.frames, *result.spread, *_halted(result))}.values():
            if len(frame) == len(atoms):
                take_over(atoms, frame)
    if potential.posterior is not None:
        for frame in {id(f): f for f in (result.final, *result.frames, *_halted(result))}.values():
            potential.error_bars.write_on(frame)
    if result.status is WalkStatus.TIMED_OUT and result.step <= start_step:
        raise ExplorationError(
            f"the wall time of {settings.wall_time_s} s was over after {result.seconds:.1f} s without one MD step from "
            f"step {start_step} on; raise MDSettings.wall_time_s, or lower gamma_every = {settings.gamma_every}"
        )
    return result


def engine_taken(
    engine: Engine, condition: Condition, settings: MDSettings, atoms: Atoms | None, *, grace: bool
) -> tuple[Literal["library", "executable"], str]:
    """
    Return the engine that a walk takes, and why it is the library where the executable was not excluded.

    Parameters
    ----------
    engine
        As asked for.
    condition, settings
        Of the walk.
    atoms
        Where it starts; None for a restart file.
    grace
        Whether the potential is a GRACE-FS potential.
    """
    if why := needs_library(engine, condition, settings, atoms, grace=grace):
        return "library", why
    if engine != "auto":
        return engine, ""
    try:
        executable.find_command()
    except ExecutableError as error:
        return "library", str(error).partition("; ")[0]
    if condition.colvars is not None and not executable.has_fix(STYLE):
        return "library", f"the executable has no fix {STYLE}"
    return "executable", ""


def needs_library(
    engine: Engine, condition: Condition, settings: MDSettings, atoms: Atoms | None, *, grace: bool
) -> str:
    """Return why a walk needs the library, whatever executable there is; arguments as for :func:`engine_taken`."""
    if settings.needs_posterior:
        return f"dynamics.{settings.needs_posterior} needs it"
    if engine == "auto" and settings.swap is not None and not _executable_can_swap(atoms, condition):
        return "the executable cannot do these exchanges of atoms"
    return "the executable cannot run GRACE-FS" if engine == "auto" and grace else ""


def _executable_can_swap(atoms: Atoms | None, condition: Condition) -> bool:
    """Tell whether the executable can exchange atoms: it knows no moments, and one temperature."""
    no_moments = atoms is None or MOMENTS not in atoms.arrays
    return no_moments and condition.temperature_at(1.0) == condition.temperature_K


def check_swaps(frames: Sequence[Atoms], conditions: Sequence[Condition], settings: MDSettings, engine: str) -> None:
    """
    Refuse exchanges that a campaign could never do.

    Parameters
    ----------
    frames
        Structures MD starts from.
    conditions
        They are held at.
    settings
        Of MD (:class:`.MDSettings`).
    engine
        As asked for.

    Raises
    ------
    InvalidInputError
        No structure has two elements among the atoms that move, MD ends before the first exchange, or the engine
        cannot do what is asked for.
    """
    if settings.swap is None:
        return
    if settings.swap.every_steps >= settings.n_steps:
        raise InvalidInputError.of(
            "MDSettings.swap",
            f"has every_steps = {settings.swap.every_steps}, and MD has {settings.n_steps} steps (n_steps): atoms "
            "would never be exchanged; lower every_steps, raise n_steps, or leave this setting out",
        )
    if not any(map(can_swap, frames)):
        raise InvalidInputError.of(
            "MDSettings.swap",
            f"is given, but {', '.join(a.get_chemical_formula() for a in frames)} have one element among the atoms "
            "that move: there is nothing to exchange; leave this setting out",
        )
    if engine == "executable":
        for condition in conditions:
            input_script.fixed_temperature(condition, settings.swap)


def check_error_halt(settings: MDSettings, engine: Engine) -> None:
    """Refuse an engine that knows no error bars where they are needed."""
    if settings.needs_posterior and engine == "executable":
        raise InvalidInputError.of(
            f"MDSettings.{settings.needs_posterior}",
            "is given, but the lmp executable knows no error bars; use engine: library",
        )


def _halted(result: ExplorationResult) -> list[Atoms]:
    return [] if result.halt is None else [result.halt.atoms]


def _mark_frozen(result: ExplorationResult, still: NDArray[np.intp]) -> None:
    """Mark in all frames of a run which atoms were frozen, for the run that goes on from them."""
    result.final = freeze(result.final, still)
    result.frames = [freeze(frame, still) for frame in result.frames]
    result.spread = [freeze(frame, still) for frame in result.spread]
    if result.halt is not None:
        result.halt.atoms = freeze(result.halt.atoms, still)


def _unseen(atoms: Atoms, potential: ACEPotential, coverage: Coverage | None, step: int) -> ExplorationResult | None:
    """Return the halt at the first frame if it has pairs or triplets of elements missing in the training set."""
    unseen = [] if coverage is None else coverage.unseen(atoms)
    if not unseen:
        return None
    logger.warning("MD is not started: %s%s", unseen[0], f", and {len(unseen) - 1} more" if len(unseen) > 1 else "")
    atoms.arrays["gamma"] = compute_gamma(potential, atoms)
    halt = HaltStructure(atoms, step, HaltReason.UNSEEN, math.inf, unseen[0].atom)
    return ExplorationResult(WalkStatus.HALTED, step, atoms, halt, engine="none")


def with_velocities(atoms: Atoms, temperature_K: float, seed: int) -> Atoms:
    """
    Return a copy that has velocities: its own, or drawn for ``temperature_K``.

    Those drawn have no net momentum, and no angular momentum in a cluster, unless atoms are frozen, which rest.
    """
    copy, still = atoms.copy(), frozen_atoms(atoms)
    n_moving = len(copy) - len(still)
    if not copy.has("momenta") and len(copy) > 1:
        MaxwellBoltzmannDistribution(copy, temperature_K=temperature_K, rng=np.random.default_rng(seed))
        if len(still):
            _rest(copy, still)
        else:
            Stationary(copy)
            if shape_of(copy) is Shape.CLUSTER and len(copy) > 2:
                copy.positions, copy.pbc = gathered(atoms)  # whole, and not periodic, where it lies across a face
                ZeroRotation(copy)
                copy.positions, copy.pbc = atoms.positions, atoms.pbc
            n_moving -= 1
        scale = temperature_K / max(copy.get_kinetic_energy() / (1.5 * n_moving * units.kB), 1e-12)
        copy.set_momenta(copy.get_momenta() * np.sqrt(scale))
    elif len(still) and copy.has("momenta"):
        _rest(copy, still)
    return copy


def _rest(atoms: Atoms, still: NDArray[np.intp]) -> None:
    momenta = atoms.get_momenta()
    momenta[still] = 0.0
    atoms.set_momenta(momenta)


def _check_input(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    start_step: int,
    restart_file: str | Path | None,
) -> None:
    condition.check()
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so MD could never halt; give its .asi file")
    # a walk that halted at its very last step is resumed there, to grade that frame once more
    potential.active_set_matrices()
    if not 0 <= start_step <= settings.n_steps:
        raise InvalidInputError(f"start_step is {start_step}, outside of 0 to n_steps = {settings.n_steps}")
    if atoms is None and restart_file is None:
        raise InvalidInputError("give a structure or a restart_file to start MD from")
    if restart_file is not None and not Path(restart_file).is_file():
        raise InvalidInputError(f"restart_file '{restart_file}' does not exist")
    if atoms is not None:
        check_ensemble(atoms, condition, settings)
        if condition.colvars is not None:
            check_atoms(condition.colvars, atoms)
        potential.check_elements(atoms)


def check_structure(atoms: Atoms) -> None:
    """Refuse a structure MD cannot work on: empty, a cell vector missing, or atoms on top of each other."""
    formula = atoms.get_chemical_formula()
    if len(atoms) == 0:
        raise InvalidInputError("a structure to start MD from is empty (0 atoms)")
    check_cell(atoms)
    contact = shortest_contact(atoms, MD_RATIO)
    if contact is not None:
        raise InvalidInputError(
            f"{told_contact(atoms, contact)} in {formula}; {contact[3]:.2f} A are the least: take one of them out, or "
            "correct positions and cell"
        )
