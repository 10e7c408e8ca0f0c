"""The two states of a barrier: other orders of like atoms and fixed atoms that move are refused, real moves are not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc100, graphene, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.bias import BiasSettings
from mlip_autopipec.lammps.swaps import SwapSettings
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.validation.barriers import BarrierCriterion, find_path
from mlip_autopipec.validation.oracle_md import ValidationSettings
from mlip_autopipec.validation.properties import PropertyCriterion

if TYPE_CHECKING:
    from ase import Atoms


def jump() -> tuple[Atoms, Atoms]:
    """Copper of 31 atoms, in which the atom 0 jumps into a vacancy."""
    crystal = bulk("Cu", cubic=True, a=3.6) * (2, 2, 2)
    initial = crystal[1:]
    final = initial.copy()
    final.positions[0] = crystal.positions[0]
    return initial, final


def reordered(state: Atoms, *cycle: int) -> Atoms:
    order = list(range(len(state)))
    for atom, other in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
        order[atom] = other
    return state[order]


def shifted(state: Atoms, by: float) -> Atoms:
    moved = state.copy()
    moved.positions += by
    moved.wrap()
    return moved


def methyl(turn: float = 120.0) -> tuple[Atoms, Atoms]:
    """Ethane, and with one of its methyl groups turned: the atoms 2, 3 and 4 of it are hydrogen."""
    ethane = molecule("C2H6")
    turned = ethane.copy()
    group = ethane[[2, 3, 4]]
    group.rotate(turn, ethane.positions[0] - ethane.positions[1], center=ethane.positions[0])
    turned.positions[[2, 3, 4]] = group.positions
    return ethane, turned


def surface() -> Atoms:
    slab = fcc100("Cu", (3, 3, 3), vacuum=8)
    add_adsorbate(slab, "Cu", 1.8, "hollow")
    return slab


def hop() -> tuple[Atoms, Atoms]:
    initial, final = surface(), surface()
    final.positions[-1, 0] += 2.55
    return initial, final


def exchange_with_the_surface() -> tuple[Atoms, Atoms]:
    """The adatom takes the place of an atom of the surface, which goes on as an adatom."""
    initial, final = surface(), surface()
    last = len(initial) - 1
    near = min(np.flatnonzero(initial.get_tags() == 1), key=lambda i: initial.get_distance(i, last, mic=True))
    final.positions[-1] = initial.positions[near]
    way = initial.positions[near] - initial.positions[-1]
    final.positions[near] = initial.positions[-1] + [2 * way[0], 2 * way[1], 0]
    return initial, final


def interstitialcy() -> tuple[Atoms, Atoms]:
    initial = bulk("Cu", cubic=True, a=3.6) * (2, 2, 2)
    initial.append("Cu")
    initial.positions[-1] = [1.8, 0, 0]
    final = initial.copy()
    final.positions[-1], final.positions[0] = initial.positions[0], [-1.8, 0, 0]
    return initial, final


def slide(part: float) -> tuple[Atoms, Atoms]:
    """Two layers of carbon, one of which slides along a lattice vector, and a hydrogen atom that leaves it."""
    below = graphene(size=(3, 3, 1), vacuum=6)
    above = below.copy()
    above.positions[:, 2] += 3.4
    initial = below + above
    initial.pbc = True
    initial.append("H")
    initial.positions[-1] = above.positions[0] + [0, 0, 1.1]
    final = initial.copy()
    final.positions[len(below) :] += part * below.cell[0] / 3
    final.positions[-1, 2] += 1.0
    return initial, final


@pytest.mark.parametrize(
    ("initial", "final"),
    [
        jump(),
        (jump()[0], shifted(jump()[1], 0.3)),
        (jump()[0], reordered(jump()[1], 0, 5)),  # one atom goes on to the vacancy, another takes its place
        hop(),
        exchange_with_the_surface(),
        interstitialcy(),
        slide(1.0),
        slide(0.5),
        methyl(60.0),
    ],
)
def test_real_moves_are_taken(initial: Atoms, final: Atoms, caplog: pytest.LogCaptureFixture) -> None:
    a, b = BarrierCriterion(initial, final).states()  # type: ignore[arg-type]
    assert len(a) == len(b)
    assert "each other's places" not in caplog.text


@pytest.mark.parametrize(
    ("initial", "final", "named"),
    [
        (jump()[0], reordered(jump()[1], 20, 27), r"20 \(Cu\) and 27 \(Cu\), counted from 0.*such as the atom 0\b"),
        (jump()[0], reordered(jump()[1], 20, 25, 27), r"20 \(Cu\) and 25 \(Cu\) and 27 \(Cu\)"),
        (jump()[0], reordered(reordered(jump()[1], 20, 27), 9, 30), r"9 \(Cu\) and 30 \(Cu\); 20 \(Cu\) and 27"),
        (jump()[0], shifted(reordered(jump()[1], 20, 27), 0.3), r"20 \(Cu\) and 27 \(Cu\)"),
    ],
)
def test_like_atoms_in_another_order_are_refused(initial: Atoms, final: Atoms, named: str) -> None:
    """The path was that of two atoms that pass through each other: 14.85 eV for a jump of 0.8 eV."""
    with pytest.raises(InvalidInputError, match=rf"like atoms.*{named}.*in the order of initial"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]


def test_an_exchange_alone_is_what_is_asked_for_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        criterion = BarrierCriterion(*methyl(), name="methyl")  # type: ignore[arg-type]
        BarrierCriterion(*methyl(), name="methyl")  # type: ignore[arg-type]
        BarrierCriterion.from_dict(criterion.as_dict())
    assert caplog.text.count("'methyl': the final state is the initial one") == 1
    assert "2 (H) and 3 (H) and 4 (H)" in caplog.text


def test_states_of_other_periodicity_are_refused() -> None:
    initial, final = jump()
    initial.pbc = (True, True, False)
    with pytest.raises(InvalidInputError, match="initial is periodic along a, b and final along a, b, c"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]


@pytest.mark.parametrize(("atom", "told"), [(10, "0.4 A"), (0, "2.55 A")])
def test_a_fixed_atom_that_moves_is_refused(atom: int, told: str) -> None:
    """The campaign ended with an error of ASE after its labels were bought."""
    initial, final = jump()
    if atom:
        final.positions[atom, 0] += 0.4
    for state in (initial, final):
        state.set_constraint(FixAtoms([atom]))
    with pytest.raises(InvalidInputError, match=rf"the atom {atom} \(Cu, counted from 0\) is fixed.*{told}"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]


def test_a_fixed_atom_that_a_file_rounds_is_not() -> None:
    initial, final = jump()
    final.positions[10] += [0.004, -0.003, 0.0]
    for state in (initial, final):
        state.set_constraint(FixAtoms([10]))
    criterion = BarrierCriterion(initial, final)  # type: ignore[arg-type]
    path = find_path(*criterion.states(), EMT(), n_images=1, fmax=0.1, steps=10)
    assert np.abs([image.positions[10] - initial.positions[10] for image in path.images]).max() < 1e-9
    again = BarrierCriterion.from_dict(criterion.as_dict())
    assert again.final == criterion.final


@pytest.mark.parametrize("value", [2.5, 20.0, True, "20"])
@pytest.mark.parametrize("field", ["n_images", "steps"])
def test_numbers_of_a_path_are_whole(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"BarrierCriterion.{field} is .*give a whole number"):
        BarrierCriterion(*jump(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2.5, 20.0, True])
@pytest.mark.parametrize(
    ("make", "field"),
    [
        (SwapSettings, "every_steps"),
        (SwapSettings, "attempts"),
        (BiasSettings, "ramp_steps"),
        (BiasSettings, "n_steps"),
        (MDSettings, "n_steps"),
        (MDSettings, "gamma_every"),
        (MDSettings, "max_frames"),
        (PropertyCriterion, "n_volumes"),
        (PropertyCriterion, "max_atoms"),
        (PropertyCriterion, "max_labels"),
        (ValidationSettings, "n_frames"),
        (ValidationSettings, "interval_steps"),
    ],
)
def test_numbers_of_steps_and_labels_are_whole_in_python(make: type, field: str, value: object) -> None:
    def refused() -> None:
        made = make(**{field: value})
        nested = {SwapSettings: "swap", BiasSettings: "bias"}.get(make)
        (made if nested is None else MDSettings(**{nested: made})).check()

    with pytest.raises(InvalidInputError, match=rf"\.{field} is .*give a whole number"):
        refused()


def test_states_with_other_initial_moments_are_refused() -> None:
    """Each image would begin in the one or the other electronic state."""
    initial, final = jump()
    initial.set_initial_magnetic_moments(np.full(31, 0.6))
    final.set_initial_magnetic_moments(np.full(31, 0.6))
    BarrierCriterion(initial, final)  # type: ignore[arg-type]
    moments = np.full(31, 0.6)
    moments[4] = -3.0
    final.set_initial_magnetic_moments(moments)
    with pytest.raises(InvalidInputError, match=r"initial magnetic moments .muB.: 4 .Cu.: 0.6 and -3, counted from 0"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]
    final.set_initial_magnetic_moments(-np.full(31, 0.6))
    with pytest.raises(InvalidInputError, match=r"0 .Cu.: 0.6 and -0.6; .* and 26 more"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]
    del final.arrays["initial_magmoms"]
    with pytest.raises(InvalidInputError, match=r"initial has those of 31 numbers and final has none; give both"):
        BarrierCriterion(initial, final)  # type: ignore[arg-type]
