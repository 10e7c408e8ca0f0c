"""Barriers by the potential beside those of the oracle: the vacancy jump of copper and an adatom, by EMT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.io import write
from pymatgen.core import Lattice, Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.frames import unpack_frames
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.structures.frozen import freeze, frozen_atoms
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.validation.barriers import BarrierCriterion, find_path
from mlip_autopipec.validation.criteria import Criteria

if TYPE_CHECKING:
    from pathlib import Path

    from mlip_autopipec.potentials.potential import ACEPotential


def vacancy() -> tuple[Atoms, Atoms]:
    """Copper of 31 atoms with a vacancy, and with it one jump away."""
    crystal = bulk("Cu", cubic=True, a=3.6) * (2, 2, 2)
    neighbour = int(np.argsort(crystal.get_distances(0, range(32), mic=True))[1])
    initial, final = crystal.copy(), crystal.copy()
    final.positions[neighbour] = final.positions[0]
    del initial[0]
    del final[0]
    return initial, final


def labelled(cells: list[Atoms], shift_eV: float = 0.0) -> list[Atoms]:
    """Label by EMT; the highest image by so much more."""
    done = []
    for cell in cells:
        one = cell.copy()
        one.calc = EMT()
        extra = shift_eV if "highest" in str(Provenance.of(one).purpose) else 0.0
        energy, forces = one.get_potential_energy() + extra, one.get_forces()
        one.calc = SinglePointCalculator(one, energy=energy, forces=forces)
        done.append(one)
    return done


def test_a_path_is_that_of_ase_and_symmetric() -> None:
    initial, final = vacancy()
    path = find_path(initial, final, EMT(), n_images=3, fmax=0.05)
    assert path.converged
    assert path.highest == 2
    assert path.energies_eV[0] == pytest.approx(path.energies_eV[-1], abs=2e-3)
    assert path.energies_eV[1] == pytest.approx(path.energies_eV[3], abs=5e-3)
    assert 0.6 < path.barrier_eV < 0.9
    saddle = path.images[2].copy()
    saddle.calc = EMT()
    assert np.linalg.norm(saddle.get_forces(), axis=1).max() < 0.06


def test_frozen_atoms_rest() -> None:
    initial, final = (freeze(state, [20, 21]) for state in vacancy())
    path = find_path(initial, final, EMT(), n_images=1, fmax=0.1, steps=20)
    for image in path.images:
        assert frozen_atoms(image).tolist() == [20, 21]
        assert np.abs(image.positions[[20, 21]] - initial.positions[[20, 21]]).max() < 1e-9


def test_what_is_labelled_and_what_is_said(copper_potential: ACEPotential) -> None:
    criterion = BarrierCriterion(*vacancy(), n_images=3, fmax=0.1, steps=60, gamma_min=1e9)  # type: ignore[arg-type]
    assert criterion.structures([]) == []
    cells = criterion.structures_by([], copper_potential)
    told = [Provenance.of(cell).purpose or "" for cell in cells]
    assert [name.partition(" (")[0] for name in told] == [
        "barrier: initial state",
        "barrier: highest image",
        "barrier: final state",
    ]
    for cell in cells:  # whatever this potential's path was worth
        Provenance.of(cell)
        cell.info["property"] = cell.info["property"].partition(" (")[0]
    barrier, force = criterion.compare([], labelled(cells), copper_potential)
    by_emt = labelled(cells)
    expected = by_emt[1].get_potential_energy() - by_emt[0].get_potential_energy()
    assert barrier.oracle == pytest.approx(expected)
    assert barrier.error == pytest.approx(abs(barrier.potential - barrier.oracle))
    assert force.unit == "eV/A"
    exact = criterion.compare([], labelled(cells), EMT())[0]
    assert exact.state == "passed"
    off = criterion.compare([], labelled(cells, 0.02), EMT())[0]
    assert (off.state, round(off.error, 3)) == ("failed", 0.02)
    more = BarrierCriterion(*vacancy(), n_images=3, fmax=0.1, steps=60, gamma_min=0.0)  # type: ignore[arg-type]
    assert len(more.structures_by([], copper_potential)) == 5
    (missing,) = criterion.compare([], labelled(cells[:1]), EMT(), {"barrier: highest image": "too close"})
    assert missing.state == "not_measured"
    assert "highest image" in str(missing.reason)
    assert "too close" in str(missing.reason)


def test_a_path_that_did_not_converge_never_passes(copper_potential: ACEPotential) -> None:
    criterion = BarrierCriterion(*vacancy(), n_images=1, fmax=1e-6, steps=2)  # type: ignore[arg-type]
    cells = criterion.structures_by([], copper_potential)
    assert all(str(Provenance.of(cell).purpose).endswith("(not converged)") for cell in cells)
    found = criterion.compare([], labelled(cells), EMT())[0]
    assert found.state == "failed"
    assert "did not converge" in str(found.reason)


def path_by_emt(initial: Atoms, final: Atoms, **settings: Any) -> tuple[BarrierCriterion, list[Atoms]]:
    """Label the ends and the middle or highest image of EMT's own path."""
    criterion = BarrierCriterion(initial, final, n_images=3, fmax=0.05, **settings)  # type: ignore[arg-type]
    path = find_path(initial, final, EMT(), n_images=3, fmax=0.05)
    assert path.converged
    middle = path.highest if 0 < path.highest < 4 else 2
    cells = [path.images[i].copy() for i in (0, middle, 4)]
    for cell, name in zip(cells, ("initial state", "highest image", "final state"), strict=True):
        Provenance(Origin.PROPERTY, purpose=f"barrier: {name}").mark(cell)
    return criterion, cells


def test_two_states_that_relax_to_one_are_no_barrier() -> None:
    initial, final = vacancy()
    hop = find_mic(final.positions - initial.positions, initial.cell)[0]
    shoulder = initial.copy()
    shoulder.positions += 0.25 * hop
    criterion, cells = path_by_emt(initial, shoulder)
    found = criterion.compare([], labelled(cells), EMT())[0]
    assert found.error == pytest.approx(0.0, abs=1e-6)
    assert found.state == "failed"
    assert "both states relax to the same one" in str(found.reason)


def test_a_path_that_is_highest_at_an_end_does_not_pass() -> None:
    initial, final = vacancy()
    criterion, cells = path_by_emt(initial, final)
    assert criterion.compare([], labelled(cells), EMT())[0].state == "passed"
    top, end = cells[1].positions.copy(), cells[2].positions.copy()
    cells[1].positions, cells[2].positions = end, top  # a path up to the saddle point alone
    found = criterion.compare([], labelled(cells), EMT())[0]
    assert found.state == "failed"
    assert "the final state is the highest of the path" in str(found.reason)


def test_a_state_that_is_shifted_as_a_whole_is_the_same() -> None:
    initial, _ = vacancy()
    shifted = initial.copy()
    shifted.positions += [0.4, 0.0, 0.0]
    with pytest.raises(InvalidInputError, match="are the same state"):
        BarrierCriterion(initial, shifted)  # type: ignore[arg-type]


@pytest.mark.long
def test_a_potential_that_leads_astray_is_asked_about_the_line() -> None:
    """Dimers of a strongly repulsive potential fly apart; what is labelled are still the states that were given."""
    initial, final = vacancy()

    class Repelling(EMT):
        def calculate(self, *args: object, **kwargs: object) -> None:
            super().calculate(*args, **kwargs)
            self.results["forces"] = 50.0 * (self.atoms.positions - self.atoms.positions.mean(axis=0))

    path = find_path(initial, final, Repelling(), n_images=1, fmax=0.05, steps=100)
    assert not path.converged
    for image in path.images:
        assert np.isfinite(image.positions).all()


def test_states_travel_with_the_jobs(tmp_path: Path) -> None:
    initial, final = vacancy()
    write(tmp_path / "a.extxyz", initial)
    write(tmp_path / "b.extxyz", final)
    (tmp_path / "run.yaml").write_text(
        "name: x\nstructures: [{bulk: {name: Cu, cubic: true}}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: emt}\ncriteria: [{kind: barrier, initial: a.extxyz, final: b.extxyz, tolerance_eV: 0.02}]\n"
    )
    criterion = RunFile.load(tmp_path / "run.yaml").maker().stop_rule.criterion
    assert isinstance(criterion, BarrierCriterion)
    assert criterion.tolerance_eV == 0.02
    (tmp_path / "a.extxyz").unlink()
    again = BarrierCriterion.from_dict(criterion.as_dict())
    assert np.abs(again.states()[0].positions - initial.positions).max() < 1e-7
    assert Criteria([again]).structures([initial]) == []
    assert unpack_frames(again.final)[0] == again.states()[1]


def test_an_open_slab_is_boxed_as_structures_are() -> None:
    initial, final = vacancy()
    for state in (initial, final):
        state.center(vacuum=6.0, axis=2)
        state.pbc = (True, True, False)
    a, b = BarrierCriterion(initial, final).states()  # type: ignore[arg-type]
    assert a.pbc.all()
    assert np.allclose(a.cell.array, b.cell.array)
    assert np.allclose(b.positions - a.positions, final.positions - initial.positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a, a), "the same state"),
        (lambda a, b: (a, b[:-1]), "not the same, or not in the same order"),
        (lambda a, b: (a, Atoms(b, cell=b.cell * 1.1)), "other cells"),
        (lambda a, b: (freeze(a, [3]), b), "fix other atoms"),
        (lambda a, b: ("no-such.extxyz", b), "cannot be read"),
    ],
)
def test_states_that_make_no_path_are_refused(change, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        BarrierCriterion(*change(*vacancy()))


def test_elements_the_campaign_has_not_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="Cu"):
        BarrierCriterion(*vacancy()).check(bulk("Au"))  # type: ignore[arg-type]


def test_files_of_states_come_in_by_the_readers_and_the_door_of_structures(tmp_path: Path) -> None:
    initial, _ = vacancy()
    program = tmp_path / "state.py"
    program.write_text("raise SystemExit\n")
    with pytest.raises(InvalidInputError, match="has the format 'py', which is not read here"):
        BarrierCriterion(initial, str(program))  # type: ignore[arg-type]
    alloy = tmp_path / "alloy.cif"
    Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]).to(str(alloy))
    with pytest.raises(InvalidInputError, match=r"BarrierCriterion\.final.*occup"):
        BarrierCriterion(initial, str(alloy))  # type: ignore[arg-type]


def test_images_have_charge_spin_and_moments_of_the_states(copper_potential: ACEPotential) -> None:
    """Without them the oracle would label neutral, unpolarised images."""
    states = vacancy()
    moments = np.full(len(states[0]), 0.5)
    for state in states:
        state.info.update(total_charge=1, spin=3)
        state.set_initial_magnetic_moments(moments)
    criterion = BarrierCriterion(*states, n_images=1, fmax=0.1, steps=5, gamma_min=1e9)  # type: ignore[arg-type]
    cells = criterion.structures_by(states[0], copper_potential)
    assert len(cells) == 3
    for cell in cells:
        assert (cell.info["charge"], cell.info["multiplicity"]) == (1, 3)
        assert np.array_equal(cell.get_initial_magnetic_moments(), moments)
    states[1].info["total_charge"] = 3
    with pytest.raises(InvalidInputError, match=r"initial has a total charge of \+1 e.*final a.*\+3 e.*same charge"):
        BarrierCriterion(*states)  # type: ignore[arg-type]


def with_shifts(cells: list[Atoms], **shifts_eV: float) -> list[Atoms]:
    """Label by EMT; the images of these names (with _ for a blank) by so much more."""
    done = labelled(cells)
    for one in done:
        name = str(Provenance.of(one).purpose).rpartition(": ")[2].replace(" ", "_")
        one.calc.results["energy"] += shifts_eV.get(name, 0.0)
    return done


def test_each_image_that_was_labelled_has_to_be_right() -> None:
    """An image bought for its gamma that the oracle has 5 eV higher is the oracle's barrier."""
    criterion = BarrierCriterion(*vacancy(), n_images=3, fmax=0.05)  # type: ignore[arg-type]
    path = find_path(*criterion.states(), EMT(), n_images=3, fmax=0.05)
    cells = [path.images[i].copy() for i in range(4 + 1)]
    names = ("initial state", "image 1", "highest image", "image 3", "final state")
    for cell, name in zip(cells, names, strict=True):
        Provenance(Origin.PROPERTY, purpose=f"barrier: {name}").mark(cell)
    right = criterion.compare([], with_shifts(cells), EMT())[0]
    assert right.state == "passed"
    assert "the way back: oracle" in str(right.reason)
    assert right.data["oracle"]["energies_eV"]["initial state"] == 0.0
    hole = criterion.compare([], with_shifts(cells, image_1=5.0), EMT())[0]
    assert hole.state == "failed"
    assert hole.oracle == pytest.approx(path.energies_eV[1] - path.energies_eV[0] + 5.0)
    assert "image 1 (oracle 5." in hole.description
    below = criterion.compare([], with_shifts(cells, image_3=-5.0), EMT())[0]
    assert (below.state, below.error) == ("failed", pytest.approx(0.0, abs=1e-6))
    assert "image 3 (oracle -4." in str(below.reason)
    for shift in (-0.02, 0.02):
        end = criterion.compare([], with_shifts(cells, final_state=shift), EMT())[0]
        assert end.state == "failed"
        assert "off by more than 0.01 eV above the initial state: final state (oracle" in str(end.reason)
    within = criterion.compare([], with_shifts(cells, final_state=0.005, image_1=-0.005), EMT())[0]
    assert within.state == "passed"


@pytest.mark.parametrize("name", ["tolerance_eV", "force_tolerance_eV_A", "fmax", "gamma_min"])
@pytest.mark.parametrize("value", ["x", True, float("nan"), -1.0, None])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"BarrierCriterion\.{name} is "):
        BarrierCriterion(*vacancy(), **{name: value})  # type: ignore[arg-type]
