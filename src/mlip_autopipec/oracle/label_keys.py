"""What a dataset in extended XYZ calls its energies, forces and stresses: found by their names, or given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Entries of these names are never the total energy of a cell, even where a user names them.
_NO_TOTAL = (
    r"per_?atom|kinetic|hull|zpe|zero_?point|fermi|homo(?!g)|lumo|band|nuclear|smearing|entropy|electrostatic|ewald|"
    r"exchange|error|weight|uncertain|varian"
)
_NEVER = re.compile(_NO_TOTAL, re.IGNORECASE)
#: Those of these names are not what was computed, or other than the total energy; a user may name one of them.
_NOT_TOTAL = re.compile(
    rf"{_NO_TOTAL}|atomi[sz]|formation|cohesive|disp|vdw|d3|pred|interaction|binding|corr|shift|e0|gap|sigma|std",
    re.IGNORECASE,
)
#: A stress (eV/A^3) of nine numbers may be asymmetric by rounding and by what is left of the self-consistency.
_SYMMETRIC, _SYMMETRIC_SHARE = 1e-3, 0.02
NAMES = ("energy_key", "forces_key", "virial_key")


@dataclass(frozen=True)
class Keys:
    """What a file calls energy, forces and stress; ``is_virial``: the last is -V times the stress, in eV."""

    energy: str
    forces: str
    stress: str | None
    is_virial: bool = False


def find_keys(
    frames: Sequence[Atoms],
    values: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    energy_key: str | None,
    forces_key: str | None,
    virial_key: str | None,
) -> Keys:
    """
    Find out under which names all frames hold energy, forces and stress.

    Raises
    ------
    InvalidInputError
        Names the frame, and what is missing, in doubt or no label.
    """
    if energy_key is not None and _NEVER.search(energy_key):
        raise InvalidInputError(
            f"energy_key is {energy_key}, which is no total energy by its name; give the energy of the whole cell (eV) "
            "that the forces derive from. Multiply energies per atom by the number of atoms, and write them as "
            "REF_energy"
        )
    for one, name in zip(values, names, strict=True):
        missing = [key for key in (energy_key, forces_key, virial_key) if key is not None and key not in one]
        if missing:
            raise InvalidInputError(f"{name} has no {' and no '.join(missing)}; {_there(one)}")
    energies = [key for key in values[0] if _is_energy(key, values[0][key])]
    if energy_key is None:
        energy_key = _one_of(energies, values, names, "energy")
    prefix = re.sub(r"(free_?)?energy", "*", energy_key, flags=re.IGNORECASE)
    if forces_key is None:
        columns = [key for key in values[0] if _is_forces(key, values[0][key], len(frames[0]))]
        own = [key for key in columns if re.sub(r"forces?", "*", key, flags=re.IGNORECASE) == prefix]
        forces_key = _one_of(own or columns, values, names, "forces")
    if virial_key is not None:
        return Keys(energy_key, forces_key, virial_key, is_virial=True)
    tensors = dict.fromkeys(key for one in values for key in one if _is_tensor(key, one[key]))
    own = [key for key in tensors if re.sub(r"stress|virials?", "*", key, flags=re.IGNORECASE) == prefix]
    found = own or list(tensors)
    stresses = [key for key in found if "stress" in key.lower()]
    virials = [key for key in found if key not in stresses]
    if len(stresses) > 1 or len(virials) > 1:
        raise InvalidInputError(
            f"{names[0]} has {', '.join(found)}; say which of them is the virial (eV) with virial_key, or leave the "
            "others out of the file"
        )
    if stresses and virials:
        _refuse_other_virial(frames, values, names, stresses[0], virials[0])
    chosen = [*stresses, *virials]
    return Keys(energy_key, forces_key, chosen[0] if chosen else None, is_virial=not stresses and bool(virials))


def _is_energy(key: str, value: Any) -> bool:
    if "energy" not in key.lower() or _NOT_TOTAL.search(key) or isinstance(value, (str, bool)):
        return False
    try:
        return np.asarray(value, dtype=float).size == 1
    except (TypeError, ValueError):
        return False


def _is_forces(key: str, value: Any, n_atoms: int) -> bool:
    return "force" in key.lower() and not _NOT_TOTAL.search(key) and np.shape(value) == (n_atoms, 3)


def _is_tensor(key: str, value: Any) -> bool:
    if not re.search(r"stress|virial", key, re.IGNORECASE) or re.search(r"pred|error|weight", key, re.IGNORECASE):
        return False
    return not isinstance(value, str) and np.size(value) in (6, 9)


#: What energies and forces have to be.
_FORM = {"energy": "one number in eV", "forces": "three numbers in eV/A for each atom"}


def _one_of(found: list[str], values: Sequence[Mapping[str, Any]], names: Sequence[str], what: str) -> str:
    """Return the one entry of several that every frame has; of those that say the same, the first."""
    argument = f"{what}_key"
    for one, name in zip(values, names, strict=True):
        if not any(key in one for key in found):
            wrong = next(
                (key for key in one if key == what or (what in key.lower() and isinstance(one[key], str))), None
            )
            if wrong is not None and what in _FORM:
                shown = str(one[wrong]).replace("\n", " ")[:40]
                raise InvalidInputError(f"{name}: {wrong} is '{shown}'; it has to be {_FORM[what]}")
            raise InvalidInputError(f"{name} has no {what}; {_there(one)}")
    everywhere = [key for key in found if all(key in one for one in values)]
    if not everywhere:
        raise InvalidInputError(
            f"{names[0]} has {', '.join(found)}, and other frames have not; say with {argument} what to read"
        )
    different = [everywhere[0]]
    for key in everywhere[1:]:
        if not any(_agree(values, key, other) for other in different):
            different.append(key)
    free = [key for key in different if re.search(r"free_?energy", key, re.IGNORECASE)]
    if len(different) == 2 and len(free) == 1:
        plain = re.sub(r"free_?energy", "energy", free[0], flags=re.IGNORECASE)
        if plain in different:
            return free[0]
    if len(different) > 1:
        shown = ", ".join(f"{key} {values[0][key]}" if what == "energy" else key for key in different)
        raise InvalidInputError(f"{names[0]} has several {what} that differ ({shown}); say which with {argument}")
    return different[0]


def _agree(values: Sequence[Mapping[str, Any]], one: str, other: str) -> bool:
    return all(np.allclose(v[one], v[other], rtol=0, atol=1e-6) for v in values)


def _there(values: Mapping[str, Any]) -> str:
    there = sorted(set(values) - {"numbers", "positions"})
    if not there:
        return "it has nothing but positions; a structure without labels goes to structures"
    others = [key for key in there if _NEVER.search(key) and "force" not in key.lower()]
    no_total = f" ({', '.join(others)}: no total energy; that of the whole cell in eV is needed)" if others else ""
    return f"it has {', '.join(there)}{no_total}: say what they are called with {', '.join(NAMES)}"


def _refuse_other_virial(
    frames: Sequence[Atoms], values: Sequence[Mapping[str, Any]], names: Sequence[str], stress: str, virial: str
) -> None:
    for atoms, one, name in zip(frames, values, names, strict=True):
        if stress in one and virial in one and atoms.cell.rank == 3:
            by_virial = -six(one[virial], name, virial, atoms.get_volume()) / atoms.get_volume()
            if not np.allclose(by_virial, six(one[stress], name, stress), rtol=1e-3, atol=1e-4):
                raise InvalidInputError(
                    f"{name}: '{stress}' is not -'{virial}' / volume, so one of them has another sign or unit; say "
                    f"virial_key: {virial} to use the virial (eV, positive = compressed), or leave it out of the file"
                )


def six(value: Any, name: str, key: str, volume_A3: float = 1.0) -> Any:
    """Return a tensor as xx yy zz yz xz xy, (6,); of a virial the volume tells how exact it is."""
    tensor = np.asarray(value, dtype=float)
    if tensor.size not in (6, 9):
        raise InvalidInputError(f"{name}: '{key}' has {tensor.size} numbers; a stress or virial has 6 or 9")
    if not np.isfinite(tensor).all():
        raise InvalidInputError(f"{name}: '{key}' is {tensor.tolist()}; give finite numbers, or leave it out")
    if tensor.size == 6:
        return tensor.ravel()
    refuse_asymmetric(tensor.reshape(3, 3), f"{name}: '{key}'", volume_A3)
    return full_3x3_to_voigt_6_stress(tensor.reshape(3, 3))


def refuse_asymmetric(matrix: NDArray[np.float64], what: str, volume_A3: float = 1.0) -> None:
    """
    Refuse a stress that is not symmetric: its numbers are in another order than rows.

    Parameters
    ----------
    matrix
        In eV/A^3, (3, 3); a virial in eV.
    what
        How the message names it.
    volume_A3
        Of the cell of a virial; 1 for a stress.

    Raises
    ------
    InvalidInputError
        Shows the numbers.
    """
    apart = float(np.abs(matrix - matrix.T).max())
    if apart > _SYMMETRIC_SHARE * np.abs(matrix).max() + _SYMMETRIC * volume_A3:
        raise InvalidInputError(
            f"{what} is not symmetric (by {apart:.3g} {'eV/A^3' if volume_A3 == 1.0 else 'eV'}): {matrix.tolist()}; "
            "give the order xx xy xz yx yy yz zx zy zz, or six numbers xx yy zz yz xz xy"
        )
