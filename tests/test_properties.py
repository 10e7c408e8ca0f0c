"""The property gate: what is labelled, what is measured of it against independent evaluations, and what passes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, make_supercell, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
    StillingerWeber,
)
from matscipy.calculators.pair_potential import LennardJonesCut, PairPotential
from matscipy.elasticity import full_3x3x3x3_to_Voigt_6x6
from monty.json import MontyDecoder

from mlip_autopipec.ace.basis import BasisSettings
from mlip_autopipec.ace.comparison import PropertyComparison, all_passed
from mlip_autopipec.ace.crystals import evaluate
from mlip_autopipec.ace.linear import LinearACETrainer
from mlip_autopipec.ace.potential import ACEPotential
from mlip_autopipec.ace.properties import PropertyGate
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.generate.modes import compute_hessian
from mlip_autopipec.generate.seeds import StructureGenerator
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.oracle.identity import label_key
from mlip_autopipec.oracle.record import maker_record
from mlip_autopipec.oracle.static import EMTStaticMaker
from mlip_autopipec.schemas.label import LabelDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase.calculators.calculator import Calculator

ALL = ["eos", "elastic", "phonons"]
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def copper() -> Atoms:
    return bulk("Cu", a=3.59)


def hexagonal_copper() -> Atoms:
    return bulk("Cu", "hcp", a=2.54, c=4.15)


def magnesia() -> Atoms:
    return bulk("MgO", "rocksalt", a=4.21, cubic=True)


def pair_potential() -> Calculator:
    strength, size = {20: 0.6, 24: 0.05, 16: 0.05}, {20: 1.876, 24: 2.5, 16: 2.5}
    return PairPotential(
        {(a, b): LennardJonesCut(strength[a + b], size[a + b], 6.0) for a, b in ((12, 8), (12, 12), (8, 8))}
    )


def labelled(cells: Sequence[Atoms], calculator: Calculator, with_stress: bool = True) -> list[Atoms]:
    labels = []
    for cell, result in zip(cells, evaluate(cells, calculator), strict=True):
        results = {"energy": result.energy, "forces": result.forces}
        if with_stress and result.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(result.stress)
        labels.append(cell.copy())
        labels[-1].calc = SinglePointCalculator(labels[-1], **results)
    return labels


def measured(gate: PropertyGate, atoms: Atoms, calculator: Calculator) -> list[PropertyComparison]:
    """The oracle's side of a comparison, which is also the potential's."""
    return gate.compare(atoms, labelled(gate.structures(atoms), calculator), calculator)


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
    gate = PropertyGate(n_volumes=9, volume_span=0.05)
    volume, modulus = measured(gate, copper(), EMT())
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
    gate = PropertyGate(properties=["elastic"], elastic_from=elastic_from)
    found = measured(gate, copper(), EMT())
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
    gate = PropertyGate(properties=["elastic"])
    found = measured(gate, silicon, calculator)
    cube = bulk("Si", a=5.431, cubic=True)
    clamped = calculator.get_birch_coefficients(cube)
    relaxed = clamped + calculator.get_non_affine_contribution_to_elastic_constants(cube)
    assert constants(found, "clamped_GPa") == pytest.approx(full_3x3x3x3_to_Voigt_6x6(clamped) / units.GPa, abs=0.2)
    assert constants(found) == pytest.approx(full_3x3x3x3_to_Voigt_6x6(relaxed) / units.GPa, abs=0.2)
    assert constants(found, "clamped_GPa")[3, 3] > 1.5 * constants(found)[3, 3]
    assert found[0].data["oracle"]["ions"] == "relaxed ions"
    rigid = measured(replace(gate, relaxed_ions=False), silicon, calculator)
    assert constants(rigid) == pytest.approx(constants(found, "clamped_GPa"))


@pytest.mark.parametrize("elastic_from", ["stress", "energy"])
def test_relaxed_ions_of_a_hexagonal_crystal_are_those_of_relaxation(elastic_from):
    gate = PropertyGate(properties=["elastic"], elastic_from=elastic_from)
    found = measured(gate, hexagonal_copper(), EMT())
    assert [c.name for c in found] == ["C11", "C12", "C13", "C33", "C44"]
    primitive = gate.plan(hexagonal_copper()).crystal.primitive
    assert constants(found) == pytest.approx(by_relaxation(primitive, EMT()), abs=1.0)
    clamped = by_relaxation(primitive, EMT(), relax=False)
    assert constants(found, "clamped_GPa") == pytest.approx(clamped, abs=1.0)
    assert np.abs(constants(found) - clamped).max() > 10


def triclinic_alloy() -> Atoms:
    atoms = Atoms(
        "Cu2Au",
        scaled_positions=[[0.02, 0.03, 0.01], [0.33, 0.68, 0.36], [0.66, 0.35, 0.68]],
        cell=[[2.6, 0.1, 0.0], [0.3, 4.4, 0.2], [0.5, 0.7, 3.9]],
        pbc=True,
    )
    atoms.cell *= (43.0 / atoms.get_volume()) ** (1 / 3)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    return atoms


def test_a_crystal_of_low_symmetry_has_all_its_constants():
    gate = PropertyGate(properties=["elastic"], symprec=1e-4)
    atoms = triclinic_alloy()
    crystal = gate.plan(atoms).crystal
    assert crystal.name.split()[1] in ("P1", "P-1")
    found = measured(gate, atoms, EMT())
    assert len(found) == 21
    reference = by_relaxation(crystal.primitive, EMT(), strain=1e-3)
    largest = np.abs(reference).max()
    # under the stress of this cell the coefficients are not quite symmetric; the gate's are made so
    assert constants(found) == pytest.approx((reference + reference.T) / 2, abs=0.02 * largest)


def strained_alloy() -> Atoms:
    """Tetragonal, and its atoms are not at rest."""
    atoms = bulk("CuAu", "cesiumchloride", a=3.1)
    atoms.positions[1] += [0, 0, 0.1]
    return atoms


@pytest.mark.parametrize(
    "atoms", [hexagonal_copper(), bulk("Cu", "bcc", a=2.87), strained_alloy()], ids=["hcp", "bcc", "not at rest"]
)
def test_phonons_are_the_modes_of_the_whole_supercell(atoms):
    gate = PropertyGate(properties=["phonons"], max_atoms=16)
    (found,) = measured(gate, atoms, EMT())
    frequencies = np.array(found.data["oracle"]["frequencies_THz"])
    (displaced, *_) = gate.structures(atoms)
    crystal = gate.plan(atoms).crystal
    matrix = np.round(displaced.cell.array @ np.linalg.inv(crystal.primitive.cell.array)).astype(int)
    supercell = make_supercell(crystal.primitive, matrix)
    assert frequencies.size == 3 * len(supercell)
    roots = np.sqrt(np.repeat(supercell.get_masses(), 3))
    hessian = compute_hessian(supercell, EMT()) / np.outer(roots, roots)
    squares = np.linalg.eigvalsh(hessian) / (2 * np.pi * 1e12 / units.s) ** 2
    expected = np.sign(squares) * np.sqrt(np.abs(squares))
    assert np.sort(frequencies.ravel()) == pytest.approx(expected, abs=0.03)
    assert found.oracle == pytest.approx(expected.max(), abs=0.03)


def test_an_oxide_has_optical_modes():
    volume = measured(PropertyGate(), magnesia(), pair_potential())[0].oracle
    atoms = bulk("MgO", "rocksalt", a=(8 * volume) ** (1 / 3))
    found = measured(PropertyGate(properties=ALL, max_atoms=20), atoms, pair_potential())
    assert [c.name for c in found] == [
        "equilibrium volume", "bulk modulus", "C11", "C12", "C44", "phonon frequencies",
    ]  # fmt: skip
    assert all_passed(found)
    modulus, c11, c12 = (found[k].oracle for k in (1, 2, 3))
    assert modulus == pytest.approx((c11 + 2 * c12) / 3, rel=0.02)
    gamma = next(f for q, f in zip(*found[-1].data["oracle"].values(), strict=True) if np.abs(q).max() < 1e-9)
    assert np.ptp(gamma[3:]) < 1e-3  # the three optical modes of rock salt are one
    assert gamma[3] > 1


def test_cells_follow_from_the_crystal_not_from_how_it_is_given():
    gate = PropertyGate(properties=ALL)
    reference = gate.structures(copper())
    assert sorted(map(len, reference)) == [1] * 10 + [32]
    record = maker_record(EMTStaticMaker())
    keys = {label_key(cell, record) for cell in reference}
    assert len(keys) == len(reference)
    large = bulk("Cu", a=3.59, cubic=True).repeat((2, 3, 2))
    large.rotate(33, (1, 2, 3), rotate_cell=True)
    large.set_velocities(np.ones((len(large), 3)))
    large.calc = EMT()
    assert {label_key(cell, record) for cell in gate.structures(large)} == keys
    assert len(gate.structures([copper(), large])) == len(reference)
    tags = [cell.info["property"] for cell in reference]
    assert len(set(tags)) == len(tags)
    assert {cell.info["origin"] for cell in reference} == {"property"}
    assert all(cell.calc is None for cell in reference)
    assert tags[0].endswith(": eos volume 0.9400")


def test_labels_in_another_order_and_orientation_serve():
    gate = PropertyGate(properties=["elastic", "phonons"], max_atoms=16)
    atoms = strained_alloy()
    cells = gate.structures(atoms)
    plain = gate.compare(atoms, labelled(cells, EMT()), EMT())
    turned = []
    rng = np.random.default_rng(3)
    for cell in cells:
        other = cell[rng.permutation(len(cell))]
        other.positions += rng.integers(-1, 2, (len(other), 3)) @ other.cell.array
        other.rotate(70, (1, -2, 0.5), rotate_cell=True)
        turned.append(other)
    again = gate.compare(atoms, labelled(turned, EMT())[::-1], EMT())
    assert [c.error for c in again] == pytest.approx([0] * len(again), abs=1e-6)
    assert [c.oracle for c in again] == pytest.approx([c.oracle for c in plain], rel=1e-8)
    assert {c.kind for c in again if c.passed} == {"elastic", "phonons"}


def test_labels_of_the_real_oracle_maker_give_the_same():
    """Through atomate2's documents (kbar, VASP's sign) and the stored label, as in a campaign."""
    gate = PropertyGate(properties=["eos", "elastic"])
    oracle = OracleMaker(static_maker=EMTStaticMaker())
    labels = []
    for index, cell in enumerate(gate.structures(hexagonal_copper())):
        document = LabelDocument.from_labelled(
            oracle.compute(cell).atoms, uuid=str(index), campaign_id="test", cycle=1, index=index, origin="property"
        )
        labels.append(LabelDocument.model_validate_json(document.model_dump_json()).to_atoms())
    found = gate.compare(hexagonal_copper(), labels, EMT())
    assert all_passed(found)
    assert [c.error for c in found] == pytest.approx([0] * len(found), abs=1e-3)


@pytest.mark.parametrize("atoms", [copper(), hexagonal_copper()], ids=["fcc", "hcp"])
def test_wide_cells_for_oracles_without_k_points_give_the_same(atoms):
    gate = PropertyGate(properties=["eos", "elastic"], max_atoms=64)
    wide = replace(gate, min_width=7.0)
    cells = wide.structures(atoms)
    heights = [1 / np.linalg.norm(np.linalg.inv(cell.cell.array), axis=0) for cell in cells]
    assert np.min(heights) > 6.8
    assert {len(cell) for cell in cells} == ({32} if len(atoms) == 1 else {64})
    expected = [c.oracle for c in measured(gate, atoms, EMT())]
    assert [c.oracle for c in measured(wide, atoms, EMT())] == pytest.approx(expected, rel=1e-6)
    (eos, elastic) = replace(wide, min_width=20.0).plan(atoms).reasons.values()
    assert "are not 20 A wide" in eos
    assert eos == elastic


@pytest.fixture(scope="module")
def potential() -> ACEPotential:
    generator = StructureGenerator(n_structures=12, n_test=0, max_atoms=16, min_width=5.0)
    frames = generator.generate([bulk("Cu", a=3.59, cubic=True)], seed=1)
    return LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20)).train(
        labelled(frames, EMT())
    ).potential  # fmt: skip


def scaled(potential: ACEPotential, factor: float, which: slice = slice(None)) -> ACEPotential:
    """Multiply some of the coefficients."""
    configuration = potential.configuration()
    block = configuration.funcspecs_blocks[0]
    functions = block.funcspecs
    for function in functions[which]:
        function.coeffs = [factor * c for c in function.coeffs]
    block.funcspecs = functions
    return ACEPotential.from_basis(configuration, reference_energies=potential.reference_energies)


def test_a_trained_potential_passes_and_spoilt_ones_fail(potential):
    gate = PropertyGate(properties=ALL)
    labels = labelled(gate.structures(copper()), EMT())
    good = gate.compare(copper(), labels, potential)
    assert all_passed(good), [c.description for c in good]
    assert all(c.error > 0 for c in good)
    # 2 % of its pair term, hardly seen in the phonons, moves the minimum out of sight
    pairs = gate.compare(copper(), labels, scaled(potential, 1.02, slice(1)))
    assert {"equilibrium volume", "bulk modulus", "C11", "C12"} <= {c.name for c in pairs if c.state == "failed"}
    # everything by 1.25: the minimum stays, all that is stiff is stiffer, frequencies by the root
    stiff = gate.compare(copper(), labels, scaled(potential, 1.25))
    assert {c.name for c in stiff if c.state == "passed"} <= {"equilibrium volume", "C44"}
    for comparison, other in zip(stiff, good, strict=True):
        factor = {"eos": 1.0, "phonons": 1.25**0.5}.get(comparison.kind, 1.25)
        factor = 1.25 if comparison.name == "bulk modulus" else factor
        assert comparison.potential == pytest.approx(factor * other.potential, rel=2e-3)
    for spoilt in (pairs, stiff):
        assert not all_passed(spoilt)
        assert [c.oracle for c in spoilt] == [c.oracle for c in good]


def test_a_potential_without_a_minimum_fails_with_its_curve(potential):
    gate = PropertyGate()
    repulsive = scaled(potential, -1.0)
    volume, modulus = gate.compare(copper(), labelled(gate.structures(copper()), EMT()), repulsive)
    assert volume.state == modulus.state == "failed"
    assert volume.potential is None
    assert "by the potential, the energy has no minimum" in volume.description
    assert volume.oracle == pytest.approx(11.57, abs=0.02)
    curve = volume.data["potential"]
    assert len(curve["energies_eV"]) == len(curve["volumes_A3"]) == 7
    assert "volume" not in curve
    assert curve["energies_eV"] != volume.data["oracle"]["energies_eV"]


def test_missing_labels_are_never_passed():
    gate = PropertyGate(properties=ALL, max_atoms=16)
    cells = gate.structures(copper())
    labels = labelled(cells, EMT())
    lost = cells[2].info["property"]
    found = gate.compare(copper(), labels[:2] + labels[3:], EMT(), failures={lost: "SCF did not converge"})
    assert [c.state for c in found if c.kind == "eos"] == ["not_measured"]
    assert "1 of its 7 labels are missing" in found[0].reason
    assert f"'{lost}' (SCF did not converge)" in found[0].reason
    assert all(c.passed for c in found if c.kind != "eos")
    assert not all_passed(found)
    nothing = gate.compare(copper(), [], EMT())
    assert [c.state for c in nothing] == ["not_measured"] * 3
    assert "and 4 more" in nothing[0].reason
    # labels of other settings are no labels of these cells
    other = labelled(replace(gate, volume_span=0.05, strain=0.02, displacement=0.02).structures(copper()), EMT())
    assert [c.state for c in gate.compare(copper(), other, EMT())] == ["not_measured"] * 3


def test_what_the_oracle_cannot_tell_is_not_measured():
    no_stress = labelled(PropertyGate(properties=["elastic"]).structures(copper()), EMT(), with_stress=False)
    (found,) = PropertyGate(properties=["elastic"]).compare(copper(), no_stress, EMT())
    assert found.state == "not_measured"
    assert "elastic_from" in found.reason
    far = bulk("Cu", a=3.9)
    (found,) = measured(PropertyGate(), far, EMT())
    assert found.state == "not_measured"
    assert "by the oracle, the energy has no minimum" in found.reason
    assert "volume_span" in found.reason
    gate = PropertyGate()
    jumping = labelled(gate.structures(copper()), EMT())
    for label in jumping[::2]:
        label.calc.results["energy"] += 0.02
    (found,) = gate.compare(copper(), jumping, EMT())
    assert found.state == "not_measured"
    assert "off a smooth curve" in found.reason


def test_what_is_no_crystal_has_no_structures():
    gate = PropertyGate()
    slab = fcc111("Cu", (1, 1, 5), vacuum=8.0)
    slab.pbc = True
    alone = Atoms("Cu", cell=[14, 14.5, 15], pbc=True)
    rng = np.random.default_rng(0)
    glass = Atoms("Cu40", positions=rng.random((40, 3)) * 8, cell=[8] * 3, pbc=True)
    hot = bulk("Cu", cubic=True).repeat(8)
    hot.rattle(0.1, seed=1)
    expected = {
        "periodic in 0 directions": molecule("H2O"),
        "without atoms": slab,
        "lone atom": alone,
        "no symmetry and its 40 atoms": glass,
        "no primitive cell of at most 80": hot,
        "empty structure": Atoms(pbc=True),
    }
    for reason, atoms in expected.items():
        plan = gate.plan(atoms)
        assert plan.crystal is None
        assert reason in plan.reasons["eos"]
        assert gate.structures(atoms) == []
        (found,) = gate.compare(atoms, [], EMT())
        assert found.state == "not_applicable"
        assert not all_passed([found])
        with pytest.raises(InvalidInputError, match=reason):
            gate.check(atoms)
    gate.check([slab, copper()])
    found = gate.compare([slab, copper()], labelled(gate.structures([slab, copper()]), EMT()), EMT())
    assert [c.state for c in found] == ["not_applicable", "passed", "passed"]
    assert all_passed(found)


def test_an_alloy_without_order_is_a_crystal():
    atoms = bulk("Cu", a=3.75, cubic=True).repeat((2, 2, 2))
    atoms.symbols[np.random.default_rng(1).permutation(32)[:13]] = "Au"
    gate = PropertyGate(properties=["eos", "phonons"])
    plan = gate.plan(atoms)
    assert [len(cell) for cell in plan.structures["eos"]] == [32] * 7
    assert "would take 192 labels" in plan.reasons["phonons"]
    found = measured(gate, atoms, EMT())
    assert [c.state for c in found] == ["passed", "passed", "not_applicable"]


def test_everything_survives_json():
    gate = PropertyGate(properties=["elastic", "eos"], strain=0.02, max_atoms=16)
    assert MontyDecoder().decode(json.dumps(gate.as_dict())) == gate
    found = measured(replace(gate, properties=ALL), hexagonal_copper(), EMT())
    for comparison in found:
        plain = json.loads(json.dumps(comparison.as_dict()))
        assert plain["passed"] is True
        assert plain["description"] == comparison.description
    assert sum(bool(c.data) for c in found) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"properties": ["eos", "colour"]}, "colour"),
        ({"properties": []}, "one or more"),
        ({"properties": ["eos", "eos"]}, "each once"),
        ({"volume_tolerance": 0.0}, "volume_tolerance is 0.0"),
        ({"frequency_tolerance": 2}, "frequency_tolerance is 2"),
        ({"n_volumes": 4}, "n_volumes is 4"),
        ({"volume_span": 0.6}, "volume_span is 0.6"),
        ({"strain": -0.01}, "strain is -0.01"),
        ({"displacement": 1.0}, "displacement is 1.0"),
        ({"max_atoms": 0}, "max_atoms is 0"),
        ({"elastic_from": "forces"}, "'stress' or 'energy'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        PropertyGate(**fields)
