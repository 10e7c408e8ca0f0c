"""All checks, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip_autopipec.doctor import machine
from mlip_autopipec.doctor.result import Light, Result, looked_at, red
from mlip_autopipec.errors import INSTALL_ACE
from mlip_autopipec.kinds import TRAINERS
from mlip_autopipec.structures.periodicity import boxed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlip_autopipec.runfile.model import RunFile


def examine(campaign: RunFile | None = None, folder: Path | None = None, *, science: bool = True) -> Iterator[Result]:
    """
    Run all checks; yields each result when it is there.

    Parameters
    ----------
    campaign
        A run file whose oracle is tried instead of EMT.
    folder
        Where campaigns are to run; the present one by default.
    science
        Whether to compute anything.
    """
    folder = folder or Path.cwd()
    yield looked_at("Python", machine.check_python)
    packages = looked_at("packages", machine.check_packages)
    yield packages
    for extra in machine.EXTRAS:
        yield looked_at(f"extra {extra}", machine.check_packages, extra)
    yield looked_at("licences", machine.check_licences)
    yield looked_at("settings", machine.check_settings)
    yield looked_at("folder", machine.check_folder, folder)
    yield looked_at("store of a folder", machine.check_local_store, folder)
    yield looked_at("JobStore of jobflow", machine.check_configured_store)
    yield looked_at("LaunchPad", machine.check_launchpad)
    yield looked_at("LAMMPS library", machine.check_lammps_library)
    executable = looked_at("LAMMPS executable", machine.check_lammps_executable)
    yield executable
    trainers = {}
    for name, kind in TRAINERS.usable().items():
        if kind.look is not None:
            trainers[name] = looked_at(name, machine.check_trainer, name)
            yield trainers[name]
    yield looked_at("oracles", machine.check_oracle_programs)
    if science and packages.light is not Light.RED:
        missing = {name for name, found in trainers.items() if found.light is not Light.GREEN}
        yield from _science(campaign, with_executable=executable.light is Light.GREEN, missing=missing)


def _science(campaign: RunFile | None, *, with_executable: bool, missing: set[str]) -> Iterator[Result]:
    try:
        from mlip_autopipec.doctor import science
        from mlip_autopipec.jobs.label import OracleMaker
        from mlip_autopipec.jobs.static import EMTStaticMaker

        potential, rough = science.small_potential(), science.small_potential(ridge=1e3)
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:300]}"
        yield red("self-test", f"no potential can be trained: {found}", INSTALL_ACE)
        return
    oracle: Any = OracleMaker(static_maker=EMTStaticMaker())
    atoms, kind = science.copper(0.05, seed=2, repeat=1), "emt"
    if campaign is not None:
        oracle, kind = campaign.maker().oracle_maker, campaign.oracle.kind
        atoms = boxed(min(campaign.load_structures(), key=len))
        atoms.rattle(0.03, seed=2)
    yield looked_at(f"oracle, {kind}", science.check_oracle, oracle, atoms, kind)
    if campaign is not None:
        trainer_kind, basis = TRAINERS[campaign.trainer.kind], campaign.maker().train_maker.trainer.basis
        given, largest = getattr(basis, "cutoff", None), trainer_kind.largest_cutoff_A
        structures = [boxed(atoms) for atoms in campaign.load_structures()]
        cutoff_A = trainer_kind.cutoff_A(basis) if given or largest is None else largest(structures)
        yield looked_at("neighbours", science.check_neighbours, structures, cutoff_A, is_assumed=not given)
    yield looked_at("forces of the potential", science.check_forces, potential)
    yield looked_at("gamma, library", science.check_gamma, potential, "library")
    if with_executable:
        yield looked_at("gamma, executable", science.check_gamma, potential, "executable")
    for name, trainer in TRAINERS.usable().items():
        if trainer.self_test is not None and name not in missing:
            yield looked_at(
                f"fine-tune, {name}", science.check_fine_tune, rough, trainer.self_test(), name, trainer.remedy
            )
