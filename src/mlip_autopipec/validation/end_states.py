"""The two states of a barrier: whether a path between them is the one that is meant, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.geometry import find_mic

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.electrons import charge_of, moments_of, multiplicity_of, told
from mlip_autopipec.structures.frozen import frozen_atoms

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

#: States whose atoms are nearer to each other than this are one.
SAME_A = 0.1
#: Atoms that are fixed may be as far apart as files round.
_ROUNDED_A, _EQUAL_A = 0.01, 1e-9
#: Initial moments may differ by what files round.
_SAME_MOMENT_muB = 1e-3
#: An atom is on the place of another one when it is as near to it; less than half of any distance between atoms.
_PLACE_A = 0.5


def check_states(initial: Atoms, final: Atoms) -> list[str]:
    """
    Refuse two states between which there is no path, or another one than is meant.

    Parameters
    ----------
    initial, final
        The states as they are given. Fixed atoms of the final one are put where those of the initial one are, if they
        are off by what files round.

    Returns
    -------
    list
        What is worth knowing of the path, one line each.

    Raises
    ------
    InvalidInputError
        They have other atoms, cells, fixed atoms, electrons or moments, they are one state, or like atoms are in
        another order.
    """
    if list(initial.numbers) != list(final.numbers):
        raise InvalidInputError(
            f"BarrierCriterion: the atoms of initial ({initial.get_chemical_formula()}) and final "
            f"({final.get_chemical_formula()}) are not the same, or not in the same order; reorder one file"
        )
    if not np.allclose(initial.cell.array, final.cell.array, atol=1e-4):
        raise InvalidInputError("BarrierCriterion: initial and final have other cells; give both the same one")
    if initial.pbc.tolist() != final.pbc.tolist():
        raise InvalidInputError(
            f"BarrierCriterion: initial is periodic along {_axes(initial)} and final along {_axes(final)}; give both "
            "the same pbc"
        )
    if are_same(initial, final):
        raise InvalidInputError(f"BarrierCriterion: initial and final are the same state, to {SAME_A} A; give two")
    if frozen_atoms(initial).tolist() != frozen_atoms(final).tolist():
        raise InvalidInputError("BarrierCriterion: initial and final fix other atoms; fix the same ones")
    _check_fixed(initial, final)
    if (charge_of(initial), multiplicity_of(initial)) != (charge_of(final), multiplicity_of(final)):
        none = "multiplicity" if charge_of(initial) == charge_of(final) else "charge"
        raise InvalidInputError(
            f"BarrierCriterion: initial has {told(initial, none)} and final {told(final, none)}; give both the same "
            "charge and spin"
        )
    _check_moments(initial, final)
    return _check_order(initial, final)


def are_same(one: Atoms, other: Atoms) -> bool:
    """Return whether the atoms of two states are at the same places; where none is frozen, of a shifted one too."""
    moves = _moves(one, other)
    if not len(frozen_atoms(one)):
        moves -= moves.mean(axis=0)
    return bool(np.abs(moves).max() < SAME_A)


def _moves(one: Atoms, other: Atoms) -> NDArray[np.float64]:
    """Return how each atom moves from one state to the other (A), shape (n_atoms, 3), the shortest way."""
    found: NDArray[np.float64] = find_mic(other.positions - one.positions, one.cell, one.pbc)[0]
    return found


def _check_moments(initial: Atoms, final: Atoms) -> None:
    """Refuse states that begin with other magnetic moments: their images would be of two electronic states."""
    one, other = moments_of(initial), moments_of(final)
    remedy = "give both the same initial moments, or none"
    if one is None and other is None:
        return
    if one is None or other is None or one.shape != other.shape:
        has = [
            f"{name} has {'none' if found is None else f'those of {found.size} numbers'}"
            for name, found in (("initial", one), ("final", other))
        ]
        raise InvalidInputError(
            f"BarrierCriterion: of the initial magnetic moments of the atoms, {' and '.join(has)}; {remedy}"
        )
    off = np.flatnonzero(np.abs(one - other).reshape(len(one), -1).max(axis=1) > _SAME_MOMENT_muB)
    if len(off):
        listed = "; ".join(f"{atom} ({initial.symbols[atom]}): {one[atom]:g} and {other[atom]:g}" for atom in off[:5])
        more = f" and {len(off) - 5} more" if len(off) > 5 else ""
        raise InvalidInputError(
            f"BarrierCriterion: atoms of initial and final have other initial magnetic moments (muB): {listed}{more}, "
            f"counted from 0; {remedy}"
        )


def _axes(atoms: Atoms) -> str:
    return ", ".join(axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if periodic) or "no cell vector"


def _check_fixed(initial: Atoms, final: Atoms) -> None:
    """Refuse fixed atoms that are at other places in the two states: they could not get there."""
    fixed = frozen_atoms(initial)
    if not len(fixed):
        return
    moves = _moves(initial, final)[fixed]
    distances = np.linalg.norm(moves, axis=1)
    worst = int(np.argmax(distances))
    if distances[worst] > _ROUNDED_A:
        atom, n_off = fixed[worst], int(np.sum(distances > _ROUNDED_A))
        more = f" ({n_off} fixed atoms are at other places)" if n_off > 1 else ""
        raise InvalidInputError(
            f"BarrierCriterion: the atom {atom} ({initial.symbols[atom]}, counted from 0) is fixed, and in final it is "
            f"{distances[worst]:.3g} A from where it is in initial{more}; put it at the same place in both, or do not "
            "fix it"
        )
    if distances[worst] > _EQUAL_A:  # otherwise a state that has been here would change in its last digit
        final.positions[fixed] -= moves


def _check_order(initial: Atoms, final: Atoms) -> list[str]:
    """
    Refuse a final state in which like atoms have changed places although something else moves.

    Such atoms are on each other's places, in a closed cycle: in a jump into a vacancy, a hop, or a move in which one
    atom takes the place of another one that goes on, some place is new or left empty. Where nothing else moves, the
    exchange is what is asked for: the rotation of a methyl group has three hydrogen atoms on each other's places.
    """
    cycles, others = _exchanged(initial, final)
    if not cycles:
        return []
    listed = "; ".join(" and ".join(f"{atom} ({initial.symbols[atom]})" for atom in cycle) for cycle in cycles[:5])
    if not others:
        told_of = "the final state is the initial one with like atoms on each other's places"
        return [f"{told_of}: {listed}, counted from 0. The path exchanges them"]
    raise InvalidInputError(
        f"BarrierCriterion: in final, like atoms are on each other's places: {listed}, counted from 0, and something "
        f"else moves, such as the atom {others[0]}. The path would exchange them, with the barrier of that; give the "
        "atoms of final in the order of initial. If they are to exchange places, make that a barrier of its own"
    )


def _exchanged(initial: Atoms, final: Atoms) -> tuple[list[list[int]], list[int]]:
    """Return the cycles of like atoms that are on each other's places, and the other atoms that move."""
    moves = _moves(initial, final)
    if not len(frozen_atoms(initial)):
        moves = moves - _common(moves)
    moved = np.flatnonzero(np.linalg.norm(moves, axis=1) > _PLACE_A).tolist()
    places = initial.positions[moved]
    onto: dict[int, tuple[int, NDArray[np.float64]]] = {}  # the atom whose place it takes, and the way there
    for atom in moved:
        off, distances = find_mic(initial.positions[atom] + moves[atom] - places, initial.cell, initial.pbc)
        nearest = int(np.argmin(distances))
        if distances[nearest] < _PLACE_A and initial.numbers[moved[nearest]] == initial.numbers[atom]:
            onto[atom] = moved[nearest], moves[atom] - off[nearest]
    cycles: list[list[int]] = []
    seen: set[int] = set()
    for first in moved:
        cycle = [first]
        while cycle[-1] in onto and onto[cycle[-1]][0] not in cycle:
            cycle.append(onto[cycle[-1]][0])
        if first in seen or cycle[-1] not in onto or onto[cycle[-1]][0] != first:
            continue
        seen.update(cycle)
        ways = np.array([onto[atom][1] for atom in cycle])
        # a row or a layer that slides by a lattice vector ends where it began too, through the side of the cell
        if len(cycle) == 2 or np.abs(ways - ways[0]).max() > SAME_A:  # half a cell is as far either way
            cycles.append(sorted(cycle))
    return cycles, [atom for atom in moved if not any(atom in cycle for cycle in cycles)]


def _common(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much more than half of the atoms move (A): the shift of a state as a whole, or nothing."""
    counts = [int(np.sum(np.linalg.norm(moves - one, axis=1) < _PLACE_A)) for one in moves]
    most = int(np.argmax(counts))
    return moves[most] if counts[most] > len(moves) / 2 else np.zeros(3)
