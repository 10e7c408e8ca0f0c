"""Labels from files: extended XYZ, whatever its columns are called, and outputs of codes."""

from __future__ import annotations

import glob
import logging
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.copies import alone_in
from mlip_autopipec.oracle.given import GivenLabels, take_in_labels
from mlip_autopipec.oracle.label_keys import NAMES, Keys, find_keys, six
from mlip_autopipec.oracle.left_out import about_left_out
from mlip_autopipec.oracle.output_levels import compare_levels
from mlip_autopipec.oracle.outputs import Output, is_output, read_output
from mlip_autopipec.oracle.zero_forces import complete_single_atoms
from mlip_autopipec.structures.atom_types import no_element
from mlip_autopipec.structures.intake import CHARGES, MULTIPLICITIES
from mlip_autopipec.structures.limits import shown_formula
from mlip_autopipec.structures.provenance import ISOLATED, Origin, Split, mark
from mlip_autopipec.structures.texts import readable, text_of
from mlip_autopipec.structures.xyz_text import frames_of, refuse_unread, where_damaged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

#: Units in names of entries, other than eV, eV/A and eV/A^3.
_OTHER_UNIT = re.compile(
    r"(?:^|[^A-Za-z])(Ha|Hartree|Ry|Rydberg|kcal|kJ|meV|au|bohr|GPa|MPa|kbar|kB)(?:$|[^A-Za-z])|"
    r"(hartree|rydberg|kcal|kbar)",
    re.IGNORECASE,
)


def read_labels_file(
    path: Path | Sequence[Path],
    energy_key: str | None = None,
    forces_key: str | None = None,
    virial_key: str | None = None,
) -> GivenLabels:
    """
    Read a dataset of labelled structures, and look at each label.

    Parameters
    ----------
    path
        An extended XYZ file, or an output of a code (:data:`mlip_autopipec.oracle.outputs.READ`), or several of them;
        nothing else is read, since pickles run code.
    energy_key, forces_key
        Where extended XYZ keeps total energies (eV) and forces (eV/A), e.g. ``REF_energy`` and ``REF_forces``. None
        finds them by their names, where just one will do; of ``energy`` and ``free_energy`` the latter is taken, which
        the forces derive from.
    virial_key
        Where it keeps virials (eV, positive = compressed, ``-V * stress``); None takes what is called stress (eV/A^3,
        ASE sign) or virial. Six numbers are xx yy zz yz xz xy.

    Returns
    -------
    GivenLabels
        With the labels in attached calculators; its remarks say what was used. Single atoms far from their images, or
        with ``config_type=IsolatedAtom``, have ``info["origin"]`` ``isolated_atom`` and ``info["split"]``
        ``reference``.

    Raises
    ------
    InvalidInputError
        Names the file, the frame, what is missing and the keys that are there; or what is wrong with a label.
    """
    frames: list[Atoms] = []
    names: list[str] = []
    remarks: list[str] = []
    outputs: dict[str, Output] = {}
    paths = [path] if isinstance(path, PurePath) else list(path)
    keys = {"energy_key": energy_key, "forces_key": forces_key, "virial_key": virial_key}
    if any(keys.values()) and all(map(is_output, paths)):
        raise InvalidInputError(
            f"{', '.join(NAMES)} name columns of extended XYZ, and '{paths[0]}' is no such file; leave them out"
        )
    for one in paths:
        _refuse_missing(one)
        if is_output(one):
            outputs[str(one)] = output = read_output(one)
            of_file, named, said = output.frames, output.names, output.remarks
        else:
            of_file, named, said = _read_xyz(one, **keys)
        frames += of_file
        names += named
        remarks += said
    return take_in_labels(frames, names, [*remarks, *_about_settings(outputs)])


def label_files(folder: Path, named: Sequence[Path]) -> list[Path]:
    """
    Return the files of labels that a run file names.

    Parameters
    ----------
    folder
        Where the run file is.
    named
        Files relative to it, or patterns like ``runs/*/vasprun.xml``, whose ``**`` is any number of folders. A file of
        that name comes before a pattern.

    Returns
    -------
    list of Path
        The files of a pattern are in the order of their names. None comes twice.

    Raises
    ------
    InvalidInputError
        A pattern matches no file.
    """
    found: list[Path] = []
    for one in named:
        path = folder / one
        if path.exists() or not glob.has_magic(str(one)):
            found.append(path)
            continue
        below, pattern = (Path(one.anchor), one.relative_to(one.anchor)) if one.is_absolute() else (folder, one)
        files = sorted(file for file in below.glob(str(pattern)) if file.is_file())
        if not files:
            raise InvalidInputError(f"no file of labels matches '{one}' in '{folder}'; see where they are")
        found += files
    return list(dict.fromkeys(found))


def _refuse_missing(path: Path) -> None:
    """Refuse what is no file."""
    if path.is_dir():
        raise InvalidInputError(
            f"'{path}' is a folder; name the files in it, extended XYZ or outputs of a code, one by one or by a "
            f"pattern, {path.name}/* for all"
        )
    if not path.is_file():
        raise InvalidInputError(
            f"the file of labels '{path}' does not exist; name an extxyz file or an output of a code "
            "(vasprun.xml, OUTCAR, ...), or several of them"
        )


def _about_settings(outputs: Mapping[str, Output]) -> list[str]:
    """Refuse outputs of different levels of theory; say what is doubtful, once for all files."""
    different, said = compare_levels({path: output.level for path, output in outputs.items()})
    if different:
        raise InvalidInputError(
            f"the files of labels were not computed alike: {'; '.join(different)}. Energies of two levels of theory do "
            "not belong together: give files of one, or a campaign to each"
        )
    told = [f"labels: the files differ in {one}; energies of both are trained on" for one in said]
    files: dict[str, list[str]] = {}
    for path, output in outputs.items():
        for doubt in output.doubts:
            files.setdefault(doubt, []).append(PurePath(path).name)
    for doubt, where in files.items():
        of = f"'{where[0]}'" + (f" and {len(where) - 1} more" if len(where) > 1 else "")
        told.append(f"labels: {of}: {doubt}")
    return told


def _read_xyz(
    path: Path, energy_key: str | None, forces_key: str | None, virial_key: str | None
) -> tuple[list[Atoms], list[str], list[str]]:
    """Return the labels of a file, how messages name them, and what was used."""
    try:
        frames = list(ase.io.iread(readable(path), index=":", format="extxyz"))
    except Exception as error:
        why = str(error)
        if "expecting special 3x3 matrix" in why:  # ASE's reader wants nine numbers under this one name
            why += "; write nine numbers, or call it REF_virial (xx yy zz yz xz xy)"
        elif (found := no_element(error)) is not None:
            why = "; ".join(found)
        where = "" if no_element(error) is not None else where_damaged(text_of(path))
        raise InvalidInputError(f"the file of labels '{path}' cannot be read{where}: {why}") from error
    if not frames:
        raise InvalidInputError(f"the file of labels '{path}' holds no structure")
    names = [f"'{path}', frame {i} ({shown_formula(atoms)})" for i, atoms in enumerate(frames)]
    for atoms, name in zip(frames, names, strict=True):
        refuse_unread(atoms, name)
    if any(atoms.calc is not None and "stress" in atoms.calc.results for atoms in frames):
        _refuse_asymmetric_stress(path, names)
    values = [_values(atoms) for atoms in frames]
    complete_single_atoms(frames, values)
    keys = find_keys(frames, values, names, energy_key, forces_key, virial_key)
    _refuse_units_of_names(path, keys)
    labels = [_labelled(*one, keys) for one in zip(frames, values, names, strict=True)]
    with_stress = sum("stress" in atoms.calc.results for atoms in labels)
    stress = "no stress"
    if keys.stress is not None:
        kind = "virial" if keys.is_virial else "stress"
        stress = f"{kind} '{keys.stress}' ({with_stress} of {len(labels)} frames)"
    remarks = [f"labels: '{path.name}', {len(labels)} frames: energy '{keys.energy}', forces '{keys.forces}', {stress}"]
    remarks += about_left_out(frames, f"'{path.name}'")
    if energy_key is None:
        remarks += _about_free_energies(values, keys.energy)
    both = re.sub(r"free_?energy", "energy", keys.energy, flags=re.IGNORECASE)
    if both != keys.energy and energy_key is None and all(both in one for one in values):
        apart = max(abs(float(one[both]) - float(one[keys.energy])) for one in values)
        if apart > 1e-6:
            remarks.append(
                f"labels: '{both}' and '{keys.energy}' differ by up to {apart:.3g} eV; '{keys.energy}' is used, which "
                "the forces derive from (energy_key takes the other)"
            )
    return labels, names, remarks


def _refuse_asymmetric_stress(path: Path, names: Sequence[str]) -> None:
    """Look at the entry ``stress`` itself, of which ASE's reader keeps one triangle."""
    for (_, lines), name in zip(frames_of(text_of(path)), names, strict=False):
        entry = re.search(r"(?:^|\s)stress=[\"{]([-+.,eE\d\s]*)[\"}]", lines[1])
        numbers = [] if entry is None else entry[1].replace(",", " ").split()
        if len(numbers) == 9:
            six(np.array(numbers, dtype=float), name, "stress")


def _about_free_energies(values: Sequence[Mapping[str, Any]], energy_key: str) -> list[str]:
    """Say that some of the frames alone have a free energy, and another one: of the others no one knows which it is."""
    free = re.sub("energy", "free_energy", energy_key, flags=re.IGNORECASE)
    having = [one for one in values if free in one and free != energy_key]
    if not having or len(having) == len(values):
        return []
    apart = max(abs(float(one[free]) - float(one[energy_key])) for one in having)
    if apart < 1e-6:
        return []
    told = (
        f"labels: '{free}' is given in {len(having)} of {len(values)} frames alone, where it differs by up to "
        f"{apart:.3g} eV from '{energy_key}', which is used for all; forces derive from the free energy: give it "
        "in all frames, or correct those of the others"
    )
    return [told]


def _refuse_units_of_names(path: Path, keys: Keys) -> None:
    tensor = "virial (eV)" if keys.is_virial else "stress (eV/A^3)"
    for key, what in ((keys.energy, "energy (eV)"), (keys.forces, "forces (eV/A)"), (keys.stress, tensor)):
        unit = None if key is None else _OTHER_UNIT.search(key)
        if unit is not None:
            raise InvalidInputError(
                f"the file of labels '{path}': '{key}' is read as {what}, and its name says {unit[1] or unit[2]}; "
                "convert the numbers where they are in that unit, and give the entry a name without it"
            )


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
    once = alone_in(free)  # a copy that is trained on tests nothing
    free = once if len(once) >= n_test else free
    for i in np.random.default_rng(seed).choice(len(free), n_test, replace=False):
        mark(free[i], split=Split.TEST)


def _values(atoms: Atoms) -> dict[str, Any]:
    # ase moves columns of the standard names into a calculator and leaves the others
    return {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}


def _labelled(atoms: Atoms, values: Mapping[str, Any], name: str, keys: Keys) -> Atoms:
    try:
        energy = float(np.asarray(values[keys.energy], dtype=float).reshape(()))
        forces = np.asarray(values[keys.forces], dtype=float).reshape(len(atoms), 3)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name}: '{keys.energy}' is {values[keys.energy]!r}, '{keys.forces}' has the shape "
            f"{np.shape(values[keys.forces])}; a number and {len(atoms)} x 3 numbers are needed"
        ) from error
    results: dict[str, Any] = {"energy": energy, "forces": forces}
    if keys.stress is not None and values.get(keys.stress) is not None:
        volume = float(atoms.get_volume()) if keys.is_virial and atoms.cell.rank == 3 else 1.0
        stress = six(values[keys.stress], name, keys.stress, volume)
        if atoms.cell.rank < 3 and (keys.is_virial or stress.any()):
            kind = "virial" if keys.is_virial else "stress"
            raise InvalidInputError(
                f"{name} has a {kind} and no volume (no cell); leave the {kind} out, or give Lattice"
            )
        if keys.is_virial:
            stress = -stress / volume
        if np.abs(stress).max() > 0 or np.abs(forces).max() == 0:  # all zero: it was not computed
            results["stress"] = stress
    labelled = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    kept = ("split", "config_type", *CHARGES, *MULTIPLICITIES)
    labelled.info = {key: atoms.info[key] for key in kept if key in atoms.info}
    if str(split := labelled.info.get("split", Split.TRAIN)) not in set(Split):
        raise InvalidInputError(
            f"{name} has split={split}; {', '.join(Split)} are known. Call those held out 'test', or take the entry out"
        )
    for array in ("initial_charges", "initial_magmoms"):
        if array in atoms.arrays:
            labelled.set_array(array, atoms.arrays[array])
    if len(atoms) == 1 and str(atoms.info.get("config_type", "")).lower() in ISOLATED:
        mark(labelled, origin=Origin.ISOLATED_ATOM, split=Split.REFERENCE)
    labelled.calc = SinglePointCalculator(labelled, **results)
    return labelled
