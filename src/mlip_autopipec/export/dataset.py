"""Labels as extended XYZ that MACE, NequIP, gracemaker and ASE read as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from mlip_autopipec.schemas.label import SHIFTED
from mlip_autopipec.structures.electrons import CHARGE, MULTIPLICITY

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from ase import Atoms

#: Of what ``Campaigns.dataset`` puts into ``info``, what others should know. The folder of a calculation is none of it.
_TOLD = ("campaign_id", "label_id", "cycle", "origin", "walker", "gamma", "energy_kind", SHIFTED, CHARGE, MULTIPLICITY)
#: MACE looks for isolated atoms by this.
_ISOLATED = {"config_type": "IsolatedAtom"}


class Part(NamedTuple):
    """One file of the dataset."""

    name: str
    n: int
    what: str


def write_dataset(
    folder: Path, labels: Sequence[Atoms], trained_on: Collection[str], set_aside: Collection[str]
) -> list[Part]:
    """
    Write the labels in files by what they were used for.

    Parameters
    ----------
    folder
        Where to, made if it is not there.
    labels
        With provenance in ``info`` and energy (eV), forces (eV/A) and stress (eV/A^3) in attached calculators.
    trained_on
        ``label_id`` of those the potential was trained on.
    set_aside
        Of flagged outliers.

    Returns
    -------
    list of Part
        What was written; no file is empty.
    """
    words = {
        "train": "the potential was trained on them",
        "test": "held out of the first dataset, never trained on",
        "check": "from halt-free MD, to check the potential with; not trained on",
        "isolated_atoms": "energies of isolated atoms",
        "set_aside": "flagged outliers: a large error where gamma is low, or another magnetic state; not trained on",
        "not_trained_on": "computed after the last training",
    }
    parts: dict[str, list[Atoms]] = {name: [] for name in words}
    for atoms in labels:
        label_id, split = atoms.info["label_id"], atoms.info.get("split", "train")
        if split == "reference":
            name = "isolated_atoms"
        elif label_id in set_aside:
            name = "set_aside"
        elif split == "test":
            name = "test"
        elif label_id in trained_on:
            name = "train"
        else:
            name = "check" if split == "check" else "not_trained_on"
        parts[name].append(for_others(atoms, **(_ISOLATED if split == "reference" else {})))
    folder.mkdir(parents=True, exist_ok=True)
    for name, frames in parts.items():
        if frames:
            ase.io.write(folder / f"{name}.extxyz", frames, format="extxyz")
    return [Part(name, len(frames), words[name]) for name, frames in parts.items() if frames]


def for_others(atoms: Atoms, **info: str) -> Atoms:
    """
    Return a label under the names of ASE and of MACE.

    Parameters
    ----------
    atoms
        A label.
    **info
        Further fields.
    """
    results = atoms.calc.results
    energy, forces, stress = float(results["energy"]), np.asarray(results["forces"]), results.get("stress")
    told = atoms.copy()
    told.info = {name: atoms.info[name] for name in _TOLD if atoms.info.get(name) is not None} | info
    told.info["REF_energy"] = energy
    told.arrays["REF_forces"] = forces
    known = {"energy": energy, "forces": forces}
    if stress is not None:
        # nine numbers in a row, as ASE writes its own; a matrix would become JSON
        told.info["REF_stress"] = voigt_6_to_full_3x3_stress(stress).ravel()
        known["stress"] = np.asarray(stress)
    if results.get("magmoms") is not None:
        known["magmoms"] = np.asarray(results["magmoms"])
    told.calc = SinglePointCalculator(told, **known)
    return told
