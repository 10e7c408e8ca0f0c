"""Datasets that `init` is given as structures: what a campaign can start from, and what there is to mend first."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase.io.trajectory import Trajectory

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.oracle.outputs import READ, code_of, is_output
from mlip_autopipec.structures.texts import readable, text_of
from mlip_autopipec.structures.xyz_text import frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase import Atoms

#: Columns of three numbers that are no forces.
_NO_FORCES = frozenset("positions momenta velocities vel velo initial_magmoms magmoms dipoles".split())
#: How many pairs of names are tried.
_TRIED = 12


@dataclass(frozen=True)
class Dataset:
    """
    A file of labels, given as a structure.

    Parameters
    ----------
    path
        The file.
    shown
        How the run file names it.
    n_labels
        How many labels it holds; 0 where they cannot be used.
    fault
        Why not; empty where they can.
    keys
        What ``start_from`` has to say beside the file so that it can be read, ``energy_key`` and others.
    others
        Further values that ``energy_key`` may have.
    """

    path: Path
    shown: str
    n_labels: int = 0
    fault: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()


def dataset_in(path: Path, shown: str) -> tuple[Dataset | None, str]:
    """
    Look for a dataset in a file that is given as a structure.

    Parameters
    ----------
    path
        The file.
    shown
        How the run file names it.

    Returns
    -------
    tuple
        The dataset, None for a file of one structure, of structures without labels, or of another kind; and what is to
        be said of a file of structures that is none.

    Raises
    ------
    InvalidInputError
        A frame before the last cannot be read: nothing is known of its labels.
    """
    of_code, n_frames = code_of(path) in READ, _n_frames(path)
    if n_frames < 2 and not of_code:
        return None, ""
    try:
        n_labels = len(read_labels_file(path))
    except InvalidInputError as error:
        if _is_damaged(path):
            mend = "" if is_output(path) else "; mend the file, or take that frame out"
            raise InvalidInputError(f"{error}{mend}") from error
        if not of_code and not _has_labels(path):
            told = f"{path} holds {n_frames} structures, and the last is taken; they are no dataset to start from"
            return None, f"{told}: {error}"
        taken = f"{path} holds {n_frames} structures, and the last is taken; they are"
        if of_code:
            taken = f"the last structure of {path} is taken; the run is"
        found = Dataset(path, shown, fault=str(error))
        if not is_output(path):
            found = _with_keys(found)
        elif path.suffix.lower() == ".json":  # what it is written as instead
            found = replace(found, shown=f"{shown.removesuffix(path.suffix)}.extxyz")
        return found, f"{taken} no dataset to start from: {error}"
    return (Dataset(path, shown, n_labels) if n_labels > 1 else None), ""


def refused_together(datasets: Sequence[Dataset]) -> str:
    """Say why files that are datasets each do not belong together; empty where they do."""
    if len(datasets) < 2:
        return ""
    try:
        read_labels_file([dataset.path for dataset in datasets])
    except InvalidInputError as error:
        return str(error)
    return ""


def with_names_for_all(usable: Sequence[Dataset], unusable: Sequence[Dataset]) -> list[Dataset]:
    """Return datasets that have to be mended, without names of their energies and forces where others lack these."""
    every = [*usable, *unusable]
    if len(every) == 1:
        return list(unusable)
    found = []
    for dataset in unusable:
        keys = dict(dataset.keys)
        try:
            read_labels_file([one.path for one in every], **keys)
        except InvalidInputError as error:
            fault = dataset.fault
            if keys:
                fault += f". With {', '.join(keys.values())} the other files cannot be read ({error}): name them alike"
            found.append(replace(dataset, fault=fault, keys=(), others=()))
        else:
            found.append(dataset)
    return found


def _n_frames(path: Path) -> int:
    """Count the structures of a file that may be a dataset: xyz, trajectory or JSON of ASE; 0 for others."""
    if not is_output(path):
        return sum(frame[0].strip().isdecimal() for _, frame in frames_of(text_of(path)))
    if path.suffix.lower() == ".traj":
        with Trajectory(path) as frames:
            return len(frames)
    if path.suffix.lower() == ".json":
        return len(_rows_of_json(path))
    return 0


def _rows_of_json(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(text_of(path))
    except ValueError:
        return []
    ids = content.get("ids") if isinstance(content, dict) else None
    return [content[str(one)] for one in ids if str(one) in content] if isinstance(ids, list) else []


def _has_labels(path: Path) -> bool:
    """Return whether frames carry what may be energies and forces, by whatever names."""
    if path.suffix.lower() == ".json":
        return any("forces" in row for row in _rows_of_json(path))
    if is_output(path):
        with Trajectory(path) as frames:
            return any(atoms.calc is not None for atoms in frames)
    return any(next(_energies(atoms), None) and next(_forces(atoms), None) for atoms in _frames(path))


def _frames(path: Path) -> list[Atoms]:
    try:
        return list(ase.io.iread(readable(path), index=":", format="extxyz"))
    except Exception:  # readers raise what they like; what is wrong has been said
        return []


def _is_damaged(path: Path) -> bool:
    """Tell whether a frame cannot be read, of a file whose last one can: then it is no other format."""
    try:
        if path.suffix.lower() == ".traj":
            with Trajectory(path) as frames:
                return any(_is_lost(frames, i) for i in range(len(frames)))
        if is_output(path):
            return False
        ase.io.read(readable(path), index=-1, format="extxyz")
    except Exception:
        return False
    return not _frames(path)


def _is_lost(frames: Sequence[Atoms], i: int) -> bool:
    try:
        frames[i]
    except Exception:  # whatever the bytes there mean
        return True
    return False


def _energies(atoms: Atoms) -> Iterator[str]:
    """Yield the names of numbers of a frame, energies before others."""
    results = {} if atoms.calc is None else atoms.calc.results
    numbers = [
        str(key)
        for key, value in {**atoms.info, **results}.items()
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    ]
    yield from sorted(numbers, key=lambda key: "energy" not in key.lower())


def _forces(atoms: Atoms) -> Iterator[str]:
    results = {} if atoms.calc is None else atoms.calc.results
    for key, value in {**atoms.arrays, **results}.items():
        if np.shape(value) == (len(atoms), 3) and str(key).lower() not in _NO_FORCES:
            yield str(key)


def _with_keys(dataset: Dataset) -> Dataset:
    """Find names of energies and forces with which a dataset can be read, where they are its fault."""
    if "_key" not in dataset.fault or not (frames := _frames(dataset.path)):
        return dataset
    energies, forces = list(_energies(frames[0])), list(_forces(frames[0]))
    pairs = [(one, None) for one in energies] + [(one, other) for other in forces for one in energies]
    found: list[dict[str, str]] = []
    for energy, of_forces in pairs[:_TRIED]:
        named = {"energy_key": energy, "forces_key": of_forces}
        keys = {key: value for key, value in named.items() if value is not None}
        if found and keys.keys() != found[0].keys():
            break  # the shorter will do
        try:
            read_labels_file(dataset.path, **keys)
        except InvalidInputError:
            continue
        found.append(keys)
    if not found:
        return dataset
    others = tuple(keys["energy_key"] for keys in found[1:])
    return replace(dataset, keys=tuple(found[0].items()), others=others)
