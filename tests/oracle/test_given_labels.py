"""Labels whose numbers belong to something else: units, signs, orders of atoms, sizes of cells."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.given import take_in_labels


def _label(atoms, calculator, energy=None, forces=None):
    computed = atoms.copy()
    computed.calc = calculator
    energy = computed.get_potential_energy() if energy is None else energy
    forces = computed.get_forces() if forces is None else forces
    label = atoms.copy()
    label.calc = SinglePointCalculator(label, energy=energy, forces=np.array(forces))
    return label


def _rattled(atoms, calculator, n=10, sigma=0.06):
    frames = []
    for seed in range(n):
        moved = atoms.copy()
        moved.rattle(sigma, seed=seed)
        frames.append(_label(moved, calculator))
    return frames


def _of_md(atoms, calculator, temperature_K, n=12, interval=10, timestep_fs=4.0):
    atoms = atoms.copy()
    atoms.calc = calculator
    rng = np.random.default_rng(3)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature_K, rng=rng)
    dynamics = Langevin(atoms, timestep_fs * units.fs, temperature_K=temperature_K, friction=0.01 / units.fs, rng=rng)
    frames = []
    for _ in range(n):
        dynamics.run(interval)
        frames.append(_label(atoms, calculator))
    return frames


CASES = {
    "copper, rattled": lambda: _rattled(bulk("Cu", cubic=True).repeat(2), EMT()),
    "aluminium slab, MD": lambda: _of_md(fcc111("Al", (2, 2, 3), vacuum=8.0), EMT(), 300),
    "platinum, small cell": lambda: _rattled(bulk("Pt", cubic=True), EMT()),
    "argon, MD": lambda: _of_md(
        bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2), LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0), 30
    ),
}


def _changed(frames, energy=1.0, forces=lambda i, f: f):
    results = [atoms.calc.results for atoms in frames]
    return [
        _label(atoms, None, energy * found["energy"], forces(i, found["forces"]))
        for i, (atoms, found) in enumerate(zip(frames, results, strict=True))
    ]


@pytest.fixture(params=CASES, scope="module")
def frames(request):
    return CASES[request.param]()


def test_right_labels_pass_without_a_word(frames):
    expected = ("lone atom", "velocities (12)")
    if frames[0].symbols[0] == "Ar":
        expected += ("follow each other",)  # 40 fs apart, and soft
    said = [remark for remark in take_in_labels(frames).remarks if not any(word in remark for word in expected)]
    assert said == []


@pytest.mark.parametrize("unit", [units.Ry / units.Bohr, units.kJ / units.mol], ids=["Ry/bohr", "kJ/mol/A"])
def test_units_are_guessed_of_few_labels_too(unit):
    """The energies of eight frames of a crystal hardly follow the work: no slope, but contradictions."""
    frames = _rattled(bulk("Cu", cubic=True).repeat(2), EMT(), n=8, sigma=0.05)
    wrong = _changed(frames, forces=lambda _, f: f / unit)
    with pytest.raises(InvalidInputError, match=rf"the forces look like {['kJ/mol/A', 'Ry/bohr'][unit > 1]}"):
        take_in_labels(wrong)


@pytest.mark.parametrize("every", [2, 3])
def test_forces_turned_in_some_labels_are_refused_by_number(frames, every):
    turned = _changed(frames, forces=lambda i, f: -f if i % every == 0 else f)
    # the first frame of MD may be too far from all others
    numbers = "(0, )?" + ", ".join(str(i) for i in range(every, len(frames), every))
    with pytest.raises(
        InvalidInputError, match=rf"do not fit the forces .*turned round \({numbers}\).*turn their sign"
    ):
        take_in_labels(turned)


@pytest.mark.parametrize("same", [True, False], ids=["one order", "each its own order"])
def test_forces_in_another_order_of_the_atoms_are_refused(frames, same):
    def shuffled(i, forces):
        return forces[np.random.default_rng(7 if same else i).permutation(len(forces))]

    with pytest.raises(InvalidInputError, match=r"do not fit the forces|do not belong together"):
        take_in_labels(_changed(frames, forces=shuffled))


def test_forces_of_another_unit_in_half_of_the_labels_are_refused(frames):
    factor = units.Bohr / units.Hartree
    mixed = _changed(frames, forces=lambda i, f: f * (factor if i % 2 else 1))
    with pytest.raises(InvalidInputError, match=r"do not fit the forces of near frames .*in one unit"):
        take_in_labels(mixed)


def test_one_wrong_label_is_left_to_the_training():
    frames = CASES["copper, rattled"]()
    frames[4].calc.results["energy"] += 3.0
    (said,) = take_in_labels(frames).remarks
    assert "1 of 10 labels do not fit the forces of near frames (labels[4] (Cu32)); the first training judges" in said


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (units.mol / units.kcal, r"stiffer than matter is.*kcal/mol and kcal/mol/A \(divide both by 23.061\)"),
        (units.mol / units.kJ, r"stiffer than matter is.*kJ/mol"),
        (1 / units.Hartree, r"softer than matter is.*Hartree and Hartree/A \(multiply both by 27.211\)"),
    ],
)
def test_energies_and_forces_in_one_wrong_unit_are_said(frames, size, told):
    said = take_in_labels(_changed(frames, energy=size, forces=lambda _, f: f * size)).remarks
    assert any(re.search(told, remark) for remark in said)


def _cells(energy_of):
    """Return labels of cells of 4 and 32 atoms with another energy than theirs (about -3.5 eV for each atom)."""
    found = []
    for n in (1, 2):
        for atoms in _rattled(bulk("Cu", cubic=True).repeat(n), EMT(), n=2, sigma=0.05):
            energy = atoms.calc.results["energy"] - 3.5 * len(atoms)
            found.append(_label(atoms, None, energy_of(energy, len(atoms)), atoms.calc.results["forces"]))
    return found


@pytest.mark.parametrize(
    "energy_of", [lambda e, n: e / n, lambda e, n: e * 4 / n], ids=["of an atom", "of a cell of 4"]
)
def test_energies_of_a_part_of_the_cell_are_refused(energy_of):
    with pytest.raises(InvalidInputError, match=r"Cu32.*Cu4.*same energy.*with 32 and 4 atoms: give the energy of the"):
        take_in_labels(_cells(energy_of))
    assert len(take_in_labels(_cells(lambda e, n: e))) == 4


def test_crushed_cells_with_the_energy_of_a_smaller_one_at_rest_pass():
    """As in InP of FitSNAP: an equation of state whose median cell of 8 atoms has the energy of 4 atoms at rest."""
    found = []
    for n, scales in ((1, (0.995, 1.0, 1.005)), (2, (0.835, 0.84, 0.841, 0.845, 1.0))):
        for scale in scales:
            atoms = bulk("Cu", cubic=True).repeat((n, 1, 1))
            atoms.set_cell(scale * atoms.cell, scale_atoms=True)
            found += _rattled(atoms, EMT(), n=1, sigma=0.01)
            found[-1].calc.results["energy"] -= 3.5 * len(atoms)
    small, large = ([a.calc.results["energy"] for a in found if len(a) == n] for n in (4, 8))
    assert np.median(large) == pytest.approx(np.median(small), rel=0.1)
    assert len(take_in_labels(found)) == 8


def _with_atom(size, atom_eV):
    atom = Atoms("Cu", cell=[15] * 3, pbc=True)
    atom = _label(atom, None, atom_eV, np.zeros((1, 3)))
    frames = [
        _label(f, None, f.calc.results["energy"] - 3.5 * len(f), f.calc.results["forces"])
        for f in _rattled(bulk("Cu", cubic=True), EMT(), n=3)
    ]
    return [*_changed(frames, energy=size, forces=lambda _, f: f * size), atom]


def test_atoms_bound_by_more_than_there_is_are_refused():
    assert not any("bound" in remark for remark in take_in_labels(_with_atom(1.0, -0.2)).remarks)
    with pytest.raises(InvalidInputError, match=r"bound by up to 7\d\.\d eV each.*take the lone atoms out"):
        take_in_labels(_with_atom(units.mol / units.kcal, -0.2))
    assert any("bound by 0.1" in remark for remark in take_in_labels(_with_atom(1 / units.Hartree, -0.01)).remarks)


def test_a_small_molecule_that_turns_is_no_contradiction():
    tblite = pytest.importorskip("tblite.ase")
    atoms = molecule("H2O")
    atoms.center(vacuum=5.0)
    found = take_in_labels(_of_md(atoms, tblite.TBLite(method="GFN1-xTB", verbosity=0), 300, 12, 5, 0.5))
    assert len(found) == 12


@pytest.mark.parametrize(("name", "bond"), [("CH3CH2OH", "H-O"), ("CO2", "O-C"), ("SiH4", "H-Si")])
def test_molecules_in_another_unit_are_said_by_their_bonds(name, bond):
    """Energies and forces of one wrong unit; crystals have near frames for that, molecules turn."""
    tblite = pytest.importorskip("tblite.ase")
    atoms = molecule(name)
    atoms.center(vacuum=5.0)
    frames = _rattled(atoms, tblite.TBLite(method="GFN1-xTB", verbosity=0), n=8, sigma=0.02)
    assert not any("bonds" in remark for remark in take_in_labels(frames).remarks)
    for size, unit in ((units.mol / units.kcal, "kcal/mol"), (1 / units.Hartree, "Hartree")):
        said = take_in_labels(_changed(frames, energy=size, forces=lambda _, f, size=size: f * size)).remarks
        assert any(f"bonds {bond} change by" in one and f"look like {unit}" in one for one in said), unit
