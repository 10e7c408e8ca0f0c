"""Labels from files: extended XYZ, whatever its columns are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.provenance import Origin, Split, mark

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

#: What data sets call the frame of a single atom in a box (``config_type``).
_ISOLATED = ("isolatedatom", "isolated_atom")


def read_labels_file(
    path: Path, energy_key: str = "energy", forces_key: str = "forces", virial_key: str | None = None
) -> list[Atoms]:
    """
    Read a dataset of labelled structures.

    Parameters
    ----------
    path
        An extended XYZ file; nothing else is read, since pickles run code.
    energy_key, forces_key
        Where the file keeps total energies (eV) and forces (eV/A), e.g. ``REF_energy`` and
        ``REF_forces``.
    virial_key
        Where it keeps virials (eV, positive = compressed, ``-V * stress``); None takes ``stress``
        (eV/A^3, ASE sign) where the file has it.

    Returns
    -------
    list of ase.Atoms
        With the labels in attached calculators. Single atoms with ``config_type=IsolatedAtom``
        have ``info["origin"]`` ``isolated_atom`` and ``info["split"]`` ``reference``.

    Raises
    ------
    InvalidInputError
        Names the file, the frame, what is missing and the keys that are there.
    """
    if path.suffix not in (".xyz", ".extxyz"):
        raise InvalidInputError(f"'{path}' is no extended XYZ file (.xyz, .extxyz), the only kind labels are read from")
    if not path.is_file():
        raise InvalidInputError(f"the file of labels '{path}' does not exist")
    try:
        frames = list(ase.io.iread(path, index=":", format="extxyz"))
    except Exception as error:
        raise InvalidInputError(f"the file of labels '{path}' cannot be read: {error}") from error
    if not frames:
        raise InvalidInputError(f"the file of labels '{path}' holds no structure")
    return [
        _labelled(atoms, f"'{path}', frame {i} ({atoms.get_chemical_formula()})", energy_key, forces_key, virial_key)
        for i, atoms in enumerate(frames)
    ]


def hold_out(frames: Sequence[Atoms], fraction: float, seed: int) -> None:
    """
    Mark a share of the training structures as held out (``info["split"] = "test"``), the same for the same seed.

    Parameters
    ----------
    frames
        Labelled structures; those that say already what they are for are left alone.
    fraction
        Share in [0, 1); at least one structure if it is positive, never all of them.
    seed
        For the choice.
    """
    if not 0 <= fraction < 1:
        raise InvalidInputError(f"test_fraction is {fraction}; give a share in [0, 1)")
    free = [atoms for atoms in frames if "split" not in atoms.info]
    if fraction == 0 or not free:
        return
    n_test = max(1, round(fraction * len(free)))
    if n_test >= len(free):
        raise InvalidInputError(f"test_fraction {fraction} of {len(free)} structures leaves none to train on")
    for i in np.random.default_rng(seed).choice(len(free), n_test, replace=False):
        mark(free[i], split=Split.TEST)


def _labelled(atoms: Atoms, where: str, energy_key: str, forces_key: str, virial_key: str | None) -> Atoms:
    # ase moves columns of the standard names into a calculator and leaves the others
    values: dict[str, Any] = {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}
    wanted = [energy_key, forces_key] + ([virial_key] if virial_key is not None else [])
    missing = [key for key in wanted if key not in values]
    if missing:
        there = sorted(set(values) - {"numbers", "positions"})
        raise InvalidInputError(
            f"{where} has no {' and no '.join(missing)}; it has {', '.join(there) or 'nothing but positions'}: "
            "say what they are called with energy_key, forces_key and virial_key"
        )
    results: dict[str, Any] = {
        "energy": float(values[energy_key]),
        "forces": np.asarray(values[forces_key], dtype=float).reshape(len(atoms), 3),
    }
    if virial_key is not None:
        virial = np.asarray(values[virial_key], dtype=float).reshape(3, 3)
        results["stress"] = full_3x3_to_voigt_6_stress(-virial / atoms.get_volume())
    elif "stress" in values:
        stress = np.asarray(values["stress"], dtype=float)
        results["stress"] = stress if stress.shape == (6,) else full_3x3_to_voigt_6_stress(stress.reshape(3, 3))
    labelled = atoms.copy()
    labelled.info = {key: atoms.info[key] for key in ("split", "config_type") if key in atoms.info}
    if len(atoms) == 1 and str(atoms.info.get("config_type", "")).lower() in _ISOLATED:
        mark(labelled, origin=Origin.ISOLATED_ATOM, split=Split.REFERENCE)
    labelled.calc = SinglePointCalculator(labelled, **results)
    return labelled
