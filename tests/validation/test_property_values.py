"""Equations of state, elastic constants and phonons against independent evaluations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, make_supercell
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.optimize import BFGS
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
    StillingerWeber,
)
from matscipy.elasticity import full_3x3x3x3_to_Voigt_6x6
from property_cases import (
    all_passed,
    copper,
    hexagonal_copper,
    magnesia,
    measured,
    pair_potential,
    strained_alloy,
    triclinic_alloy,
)

from mlip_autopipec.sampling.modes import compute_hessian
from mlip_autopipec.validation.crystals import evaluate
from mlip_autopipec.validation.properties import PropertyCriterion

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from mlip_autopipec.validation.comparison import PropertyComparison

ALL = ["eos", "elastic", "phonons"]
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def constants(comparisons: list[PropertyComparison], name: str = "constants_GPa") -> np.ndarray:
    return np.array(next(c for c in comparisons if c.kind == "elastic").data["oracle"][name])


def by_relaxation(atoms: Atoms, calculator: Calculator, strain: float = 2e-3, relax: bool = True) -> np.ndarray:
    """Elastic constants (GPa) the long way: strain, let the atoms relax, read the stress."""
    found = np.zeros((6, 6))
    for k, (i, j) in enumerate(VOIGT):
        sides = []
        for sign in (1, -1):
            engineering = np.zeros((3, 3))
            engineering[i, j] += sign * strain / 2
            engineering[j, i] += sign * strain / 2
            work = atoms.copy()
            work.set_cell(work.cell.array @ (np.eye(3) + engineering), scale_atoms=True)
            work.calc = calculator
            if relax:
                BFGS(work, logfile=None).run(fmax=1e-5, steps=300)
            sides.append(work.get_stress())
        found[:, k] = (sides[0] - sides[1]) / (2 * strain)
    return found / units.GPa


def test_equation_of_state_agrees_with_that_of_ase():
    criterion = PropertyCriterion(n_volumes=9, volume_span=0.05)
    volume, modulus = measured(criterion, copper(), EMT())
    cells = [bulk("Cu", a=a) for a in np.linspace(3.55, 3.63, 9)]
    energies = [r.energy for r in evaluate(cells, EMT())]
    v0, _, b0 = EquationOfState([c.get_volume() for c in cells], energies, eos="vinet").fit()
    assert volume.oracle == pytest.approx(v0, rel=1e-4)
    assert modulus.oracle == pytest.approx(b0 / units.GPa, rel=0.01)
    assert volume.unit == "A^3/atom"
    assert volume.error == 0
    assert volume.limit == pytest.approx(0.01 * v0, rel=1e-3)


@pytest.mark.parametrize("elastic_from", ["stress", "energy"])
def test_elastic_constants_of_copper_agree_with_the_curvature_of_the_energy(elastic_from):
    criterion = PropertyCriterion(properties=["elastic"], elastic_from=elastic_from)
    found = measured(criterion, copper(), EMT())
    assert [c.name for c in found] == ["C11", "C12", "C44"]
    cube = bulk("Cu", a=3.59, cubic=True)

    def curvature(strain: list[list[float]], h: float = 2e-3) -> float:
        cells = []
        for s in (-h, 0, h):
            work = cube.copy()
            work.set_cell(work.cell.array @ (np.eye(3) + s * np.array(strain)), scale_atoms=True)
            cells.append(work)
        low, middle, high = (r.energy for r in evaluate(cells, EMT()))
        return (low - 2 * middle + high) / h**2 / cube.get_volume() / units.GPa

    c11 = curvature([[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    c12 = curvature([[1, 0, 0], [0, 1, 0], [0, 0, 0]]) / 2 - c11
    c44 = curvature([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])
    assert [c.oracle for c in found] == pytest.approx([c11, c12, c44], rel=5e-3)


def test_elastic_constants_of_silicon_agree_with_analytic_ones():
    silicon, calculator = bulk("Si", a=5.431), Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))
    criterion = PropertyCriterion(properties=["elastic"])
    found = measured(criterion, silicon, calculator)
    cube = bulk("Si", a=5.431, cubic=True)
    clamped = calculator.get_birch_coefficients(cube)
    relaxed = clamped + calculator.get_non_affine_contribution_to_elastic_constants(cube)
    assert constants(found, "clamped_GPa") == pytest.approx(full_3x3x3x3_to_Voigt_6x6(clamped) / units.GPa, abs=0.2)
    assert constants(found) == pytest.approx(full_3x3x3x3_to_Voigt_6x6(relaxed) / units.GPa, abs=0.2)
    assert constants(found, "clamped_GPa")[3, 3] > 1.5 * constants(found)[3, 3]
    assert found[0].data["oracle"]["ions"] == "relaxed ions"
    rigid = measured(replace(criterion, relaxed_ions=False), silicon, calculator)
    assert constants(rigid) == pytest.approx(constants(found, "clamped_GPa"))


@pytest.mark.parametrize("elastic_from", ["stress", "energy"])
def test_relaxed_ions_of_a_hexagonal_crystal_are_those_of_relaxation(elastic_from):
    criterion = PropertyCriterion(properties=["elastic"], elastic_from=elastic_from)
    found = measured(criterion, hexagonal_copper(), EMT())
    assert [c.name for c in found] == ["C11", "C12", "C13", "C33", "C44"]
    primitive = criterion.plan(hexagonal_copper()).crystal.primitive
    assert constants(found) == pytest.approx(by_relaxation(primitive, EMT()), abs=1.0)
    clamped = by_relaxation(primitive, EMT(), relax=False)
    assert constants(found, "clamped_GPa") == pytest.approx(clamped, abs=1.0)
    assert np.abs(constants(found) - clamped).max() > 10


def test_a_crystal_of_low_symmetry_has_all_its_constants():
    criterion = PropertyCriterion(properties=["elastic"], symprec=1e-4)
    atoms = triclinic_alloy()
    crystal = criterion.plan(atoms).crystal
    assert crystal.name.split()[1] in ("P1", "P-1")
    found = measured(criterion, atoms, EMT())
    assert len(found) == 21
    reference = by_relaxation(crystal.primitive, EMT(), strain=1e-3)
    largest = np.abs(reference).max()
    # under the stress of this cell the coefficients are not quite symmetric; the criterion's are made so
    assert constants(found) == pytest.approx((reference + reference.T) / 2, abs=0.02 * largest)


@pytest.mark.parametrize(
    "atoms", [hexagonal_copper(), bulk("Cu", "bcc", a=2.87), strained_alloy()], ids=["hcp", "bcc", "not at rest"]
)
def test_phonons_are_the_modes_of_the_whole_supercell(atoms):
    criterion = PropertyCriterion(properties=["phonons"], max_atoms=16)
    (found,) = measured(criterion, atoms, EMT())
    frequencies = np.array(found.data["oracle"]["frequencies_THz"])
    (displaced, *_) = criterion.structures(atoms)
    crystal = criterion.plan(atoms).crystal
    matrix = np.round(displaced.cell.array @ np.linalg.inv(crystal.primitive.cell.array)).astype(int)
    supercell = make_supercell(crystal.primitive, matrix)
    assert frequencies.size == 3 * len(supercell)
    roots = np.sqrt(np.repeat(supercell.get_masses(), 3))
    hessian = compute_hessian(supercell, EMT()) / np.outer(roots, roots)
    squares = np.linalg.eigvalsh(hessian) / (2 * np.pi * 1e12 / units.s) ** 2
    expected = np.sign(squares) * np.sqrt(np.abs(squares))
    assert np.sort(frequencies.ravel()) == pytest.approx(expected, abs=0.03)
    assert found.oracle == pytest.approx(expected.max(), abs=0.03)


@pytest.mark.parametrize(
    ("atoms", "held", "between"),
    [(hexagonal_copper(), "GMAL", "KH"), (bulk("Cu", "bcc", a=2.87), "GHNP", "")],
    ids=["hcp", "bcc"],
)
def test_the_dispersion_goes_through_the_wave_vectors_of_the_supercell(atoms, held, between):
    criterion = PropertyCriterion(properties=["phonons"], max_atoms=16)
    (found,) = measured(criterion, atoms, EMT())
    exact = np.array(found.data["oracle"]["frequencies_THz"])
    dispersion = found.data["oracle"]["dispersion"]
    # where the path jumps two names share a distance: each is met once before
    at = dict(reversed(list(zip(dispersion["labels"], dispersion["ticks"], strict=True))))
    assert set(at) == {*held, *between}
    for name, distance in at.items():
        row = np.array(dispersion["frequencies_THz"][dispersion["distances"].index(distance)])
        nearest = np.abs(exact - row).max(axis=1).min()
        assert nearest < 1e-6 if name in held else nearest > 0.01, name


def test_an_oxide_has_optical_modes():
    volume = measured(PropertyCriterion(), magnesia(), pair_potential())[0].oracle
    atoms = bulk("MgO", "rocksalt", a=(8 * volume) ** (1 / 3))
    found = measured(PropertyCriterion(properties=ALL, max_atoms=20), atoms, pair_potential())
    assert [c.name for c in found] == [
        "equilibrium volume", "bulk modulus", "C11", "C12", "C44", "phonon frequencies",
    ]  # fmt: skip
    assert all_passed(found)
    modulus, c11, c12 = (found[k].oracle for k in (1, 2, 3))
    assert modulus == pytest.approx((c11 + 2 * c12) / 3, rel=0.02)
    modes = found[-1].data["oracle"]
    gamma = next(f for q, f in zip(modes["q_points"], modes["frequencies_THz"], strict=True) if np.abs(q).max() < 1e-9)
    assert np.ptp(gamma[3:]) < 1e-3  # the three optical modes of rock salt are one
    assert gamma[3] > 1
