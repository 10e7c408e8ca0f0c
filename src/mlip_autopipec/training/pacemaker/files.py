"""The files a fit by pacemaker reads and writes: labels, the potential to start from, the potential that comes out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.potential import ACEPotential, reference_energy
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.training.usual import dimers_among

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ase import Atoms
    from pyace import BBasisConfiguration

#: Energies per atom (eV) beyond which pacemaker replaces the reference energies by its own.
ENERGY_RANGE = (-20.0, 250.0)
# who ran pacemaker and when; with them no two potentials would be the same
_VOLATILE = ("user", "starttime", "intermediate_time", "reference_energy")


def label_frame(
    labels: Sequence[Atoms],
    references: Mapping[str, float],
    weights: Sequence[float],
    name: str,
    program: str = "pacemaker",
) -> pd.DataFrame:
    """
    Make the table of labels that pacemaker reads; names are ours, to find each label again after the fit.

    Parameters
    ----------
    labels
        Structures with energy (eV) and forces (eV/A) in attached calculators.
    references
        Energy in eV per atom of each element that is taken off.
    weights
        Weight of each label.
    name
        What the labels are called, e.g. "label".
    program
        Who is to read them, for errors.

    Raises
    ------
    InvalidInputError
        For an energy beyond what pacemaker takes, or a cell that is periodic in some directions only.
    """
    energies = [a.get_potential_energy() - reference_energy(a, references) for a in labels]
    low, high = ENERGY_RANGE
    for i, (atoms, energy) in enumerate(zip(labels, energies, strict=True)):
        what = f"{name} {i} ({atoms.get_chemical_formula()})"
        if not low < energy / len(atoms) < high:
            raise InvalidInputError(
                f"{what} has {energy / len(atoms):.6g} eV/atom relative to reference_energies {dict(references)}; "
                f"{program} takes {low:g} to {high:g}. Give the energies of isolated atoms, or remove the label"
            )
        if atoms.pbc.any() and not atoms.pbc.all():
            raise InvalidInputError(
                f"{what} is periodic in some directions only (pbc {atoms.pbc.tolist()}); {program} takes all or none. "
                "Set pbc to True and leave more vacuum than the cutoff"
            )
    bare = [a.copy() for a in labels]  # Atoms.copy leaves the calculator behind
    columns = {"ase_atoms": bare, "energy_corrected": energies, "forces": [raw_forces(a) for a in labels]}
    return pd.DataFrame(columns | {"name": [f"{name} {i}" for i in range(len(labels))], "w_factor": list(weights)})


def write_start(start: ACEPotential, path: Path, references: Mapping[str, float] | None) -> None:
    """
    Write the potential to continue from, without the metadata that would stop the fit or shift the energies twice.

    Parameters
    ----------
    start
        The potential.
    path
        Where to.
    references
        The reference energies in use; None resets all coefficients: pacemaker is to have the basis only.

    Raises
    ------
    InvalidInputError
        If the potential was fitted with other reference energies.
    """
    configuration = start.configuration()
    metadata = configuration.metadata
    if references is None:
        from pyace.multispecies_basisextension import reset_bbasisconfig

        reset_bbasisconfig(configuration)
    elif "reference_energy" in metadata:
        # the potential was made elsewhere: what it is continued with has to be the energy it was fitted to
        fitted = json.loads(metadata["reference_energy"])
        known = {e: fitted.get(e, 0.0) - fitted.get("shift", 0.0) for e in start.elements}
        if any(abs(known[e] - references.get(e, 0.0)) > 1e-6 for e in known):
            raise InvalidInputError(
                f"the initial potential was fitted with reference energies {known} eV (its metadata), but "
                f"{dict(references)} are in use; give ACEPotential.from_files(..., reference_energies={known})"
            )
    for key in ("_fit_cycles", "reference_energy"):
        if key in metadata:
            del metadata[key]
    configuration.save(str(path))


def read_fitted(path: Path) -> BBasisConfiguration:
    """Read the potential pacemaker wrote, without who made it and when: equal fits give equal potentials."""
    from pyace import BBasisConfiguration

    configuration = BBasisConfiguration(str(path))
    for key in [k for k in configuration.metadata.keys() if k in _VOLATILE or k.startswith("_")]:  # noqa: SIM118
        del configuration.metadata[key]
    return configuration


def coefficients_differ(one: Path, other: Path) -> bool:
    """Return whether two potential files hold different coefficients."""
    from pyace import BBasisConfiguration

    a, b = (np.asarray(BBasisConfiguration(str(p)).get_all_coeffs()) for p in (one, other))
    return a.shape != b.shape or not np.array_equal(a, b)


def left_out(labels: Mapping[str, Atoms], kept: set[str], fitted: BBasisConfiguration) -> list[str]:
    """
    Return the names of labels that pacemaker did not train on, though it could have.

    Without a pair within the cutoff, as stretched dimers, a label teaches nothing, and pacemaker leaves it out.
    """
    if not (missing := labels.keys() - kept):
        return []
    cutoff = ACEPotential.from_basis(fitted).cutoff
    return sorted(name for name in missing if len(neighbours("i", labels[name], cutoff)))


def mean_size(labels: Sequence[Atoms]) -> float:
    """Return the mean number of atoms of labels that are no dimers."""
    ordinary = [a for a, dimer in zip(labels, dimers_among(labels), strict=True) if not dimer] or list(labels)
    return sum(map(len, ordinary)) / len(ordinary)
