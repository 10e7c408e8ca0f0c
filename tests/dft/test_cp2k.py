"""CP2K through atomate2's maker, whose document holds Hartree/Bohr and GPa and calls an unconverged field a success."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from atomate2.cp2k.jobs.core import StaticMaker
from atomate2.cp2k.sets.core import StaticSetGenerator

from mlip_autopipec.errors import LabelError
from mlip_autopipec.jobs.label import OracleMaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlip_autopipec.oracle.extracted import ExtractedLabel


@pytest.fixture(autouse=True)
def _cp2k(need: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_cwd) -> None:
    need("cp2k.psmp", "cp2k cp2k-data")
    monkeypatch.setenv("CP2K_DATA_DIR", "/usr/share/cp2k")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def hydrogen() -> Atoms:
    """Four atoms of a metal that never was: cheap, without symmetry, and full of electronic entropy at 20000 K."""
    atoms = bulk("H", "sc", a=2.0) * (2, 2, 1)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    atoms.positions[0, 0] += 0.3
    return atoms


def oracle(**settings: object) -> OracleMaker:
    generator = StaticSetGenerator(
        user_input_settings={
            "basis_and_potential": {
                "basis_filenames": ["GTH_BASIS_SETS"],
                "potential_filename": "GTH_POTENTIALS",
                "H": {"basis": "SZV-GTH", "potential": "GTH-PADE-q1", "aux_basis": None},
                "C": {"basis": "SZV-GTH", "potential": "GTH-PADE-q4", "aux_basis": None},
            },
            "xc_functionals": ["PADE"],
            "cutoff": 250,
            "rel_cutoff": 50,
            "ngrids": 3,
            "validate": False,
            "ot": False,  # smearing needs diagonalisation
            "smearing": True,
            "elec_temp": 20000.0,
            "alpha": 0.4,
            "eps_scf": 1e-8,
            **settings,
        },
        user_kpoints_settings=None,
    )
    # without custodian's handlers, which change the mixing, the solver and more until the field converges
    run = {"cp2k_cmd": "cp2k.psmp", "handlers": (), "validators": ()}
    return OracleMaker(static_maker=StaticMaker(input_set_generator=generator, run_cp2k_kwargs=run))


def compute(atoms: Atoms) -> ExtractedLabel:
    """Label in a folder of its own, as in a loop."""
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    with contextlib.chdir(folder):
        return oracle().compute(atoms)


def energy(atoms: Atoms) -> float:
    label = compute(atoms)
    assert label.energy_kind == "free_energy"
    return label.atoms.get_potential_energy()


def test_units_sign_and_kind_of_energy() -> None:
    atoms = hydrogen()
    label = compute(atoms).atoms
    atom, axis = np.unravel_index(np.abs(label.get_forces()).argmax(), (len(atoms), 3))
    step = 0.01
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[atom, axis] += sign * step
        energies.append(energy(moved))
    force = -(energies[0] - energies[1]) / (2 * step)
    print(f"force {label.get_forces()[atom, axis]:.4f}, by difference {force:.4f} eV/A")
    assert abs(force) > 0.3
    assert label.get_forces()[atom, axis] == pytest.approx(force, rel=5e-3)

    step = 0.002
    for voigt, (i, j) in {2: (2, 2), 5: (0, 1)}.items():
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(energy(strained))
        stress = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
        print(f"stress {label.get_stress()[voigt]:.5f}, by difference {stress:.5f} eV/A^3")
        assert label.get_stress()[voigt] == pytest.approx(stress, rel=1e-2, abs=1e-4)


def test_forces_follow_the_sites_that_atomate2_sorted() -> None:
    atoms = hydrogen()
    atoms.numbers[0] = 6  # the most electronegative goes last
    label = compute(atoms).atoms
    assert label.numbers.tolist() == [1, 1, 1, 6]
    axis = int(np.abs(label.get_forces()[3]).argmax())
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, axis] += 0.01 * sign
        energies.append(energy(moved))
    force = -(energies[0] - energies[1]) / 0.02
    print(f"forces along the axis {label.get_forces()[:, axis].round(4).tolist()}, by difference {force:.4f} eV/A")
    others = np.abs(label.get_forces()[:3, axis] - force)
    assert abs(label.get_forces()[3, axis] - force) < 0.1 * others.min()


def test_unconverged_field_is_a_failed_label() -> None:
    """CP2K 2023.1 warns and goes on, and the document's state is 'successful'."""
    stop_early = {"FORCE_EVAL": {"DFT": {"SCF": {"MAX_SCF": 2}}}}
    with pytest.raises(LabelError, match=r"SCF run NOT converged.*cp2k\.out"):
        oracle(override_default_params=stop_early).compute(hydrogen())


def test_second_run_in_the_same_folder_is_refused() -> None:
    """custodian unpacks the zipped input of the first run over that of the second, which is then computed again."""
    atoms = hydrogen()
    oracle().compute(atoms)
    atoms.positions[0, 0] += 0.05
    with pytest.raises(LabelError, match="computed another structure"):
        oracle().compute(atoms)


def test_the_charge_and_the_spin_of_a_structure_are_those_of_the_label() -> None:
    """A chain of four H in a box: taking an electron off, or turning a spin round, costs electronvolts and pulls."""
    molecule = Atoms("H4", [[0, 0, 0.8], [0, 0, 1.6], [0, 0, 2.6], [0, 0, 3.4]], cell=[6, 6, 8], pbc=True)
    charged, triplet = molecule.copy(), molecule.copy()
    charged.info.update(charge=1, multiplicity=2)
    triplet.info.update(multiplicity=3)
    neutral, ion, torn = (compute(atoms) for atoms in (molecule, charged, triplet))
    energies = [label.atoms.get_potential_energy() for label in (neutral, ion, torn)]
    pulls = [float(label.atoms.get_forces()[3, 2]) for label in (neutral, ion, torn)]
    print(f"neutral, +1, triplet: {energies} eV, force along the bond {pulls} eV/A")
    assert 7 < energies[1] - energies[0] < 20
    assert energies[2] - energies[0] > 5
    assert pulls[1] > pulls[0] + 2
    assert pulls[2] > pulls[0] + 2
    key = oracle().keys_of
    assert len({key(atoms)[0] for atoms in (molecule, charged, triplet)}) == 3
