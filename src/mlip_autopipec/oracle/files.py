"""Labels from files: extended XYZ, whatever its columns are called, and outputs of codes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.given import GivenLabels, take_in_labels
from mlip_autopipec.oracle.left_out import about_left_out
from mlip_autopipec.oracle.output_levels import compare_levels
from mlip_autopipec.oracle.outputs import Output, is_output, read_output
from mlip_autopipec.oracle.zero_forces import complete_single_atoms
from mlip_autopipec.structures.atom_types import no_element
from mlip_autopipec.structures.intake import CHARGES, MULTIPLICITIES
from mlip_autopipec.structures.limits import shown_formula
from mlip_autopipec.structures.provenance import ISOLATED, Origin, Split, mark
from mlip_autopipec.structures.texts import readable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

#: Entries of these names are no total energy, or not what was computed.
_NOT_TOTAL = re.compile(
    r"per_?atom|atomi[sz]|formation|cohesive|hull|kinetic|disp|vdw|d3|zpe|pred|error|interaction|binding|corr|shift|e0|"
    r"weight|sigma|std|uncertain|varian",
    re.IGNORECASE,
)
#: Units in names of entries, other than eV, eV/A and eV/A^3.
_OTHER_UNIT = re.compile(
    r"(?:^|[^A-Za-z])(Ha|Hartree|Ry|Rydberg|kcal|kJ|meV|au|bohr|GPa|MPa|kbar|kB)(?:$|[^A-Za-z])|"
    r"(hartree|rydberg|kcal|kbar)",
    re.IGNORECASE,
)
_NAMES = ("energy_key", "forces_key", "virial_key")


@dataclass(frozen=True)
class _Keys:
    """What a file calls energy, forces and stress; ``is_virial``: the last is -V times the stress, in eV."""

    energy: str
    forces: str
    stress: str | None
    is_virial: bool = False


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
            f"{', '.join(_NAMES)} name columns of extended XYZ, and '{paths[0]}' is no such file; leave them out"
        )
    for one in paths:
        if not one.is_file():
            raise InvalidInputError(f"the file of labels '{one}' does not exist, or is a folder; give an extxyz file")
        if is_output(one):
            outputs[str(one)] = output = read_output(one)
            of_file, named, said = output.frames, output.names, output.remarks
        else:
            of_file, named, said = _read_xyz(one, **keys)
        frames += of_file
        names += named
        remarks += said
    return take_in_labels(frames, names, [*remarks, *_about_settings(outputs)])


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
        raise InvalidInputError(f"the file of labels '{path}' cannot be read: {why}") from error
    if not frames:
        raise InvalidInputError(f"the file of labels '{path}' holds no structure")
    names = [f"'{path}', frame {i} ({shown_formula(atoms)})" for i, atoms in enumerate(frames)]
    values = [_values(atoms) for atoms in frames]
    complete_single_atoms(frames, values)
    keys = _find_keys(frames, values, names, energy_key, forces_key, virial_key)
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


def _refuse_units_of_names(path: Path, keys: _Keys) -> None:
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
    for i in np.random.default_rng(seed).choice(len(free), n_test, replace=False):
        mark(free[i], split=Split.TEST)


def _values(atoms: Atoms) -> dict[str, Any]:
    # ase moves columns of the standard names into a calculator and leaves the others
    return {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}


def _find_keys(
    frames: Sequence[Atoms],
    values: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    energy_key: str | None,
    forces_key: str | None,
    virial_key: str | None,
) -> _Keys:
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
        return _Keys(energy_key, forces_key, virial_key, is_virial=True)
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
    return _Keys(energy_key, forces_key, chosen[0] if chosen else None, is_virial=not stresses and bool(virials))


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
    return f"it has {', '.join(there)}: say what they are called with {', '.join(_NAMES)}"


def _refuse_other_virial(
    frames: Sequence[Atoms], values: Sequence[Mapping[str, Any]], names: Sequence[str], stress: str, virial: str
) -> None:
    for atoms, one, name in zip(frames, values, names, strict=True):
        if stress in one and virial in one and atoms.cell.rank == 3:
            by_virial = -_six(one[virial], name, virial) / atoms.get_volume()
            if not np.allclose(by_virial, _six(one[stress], name, stress), rtol=1e-3, atol=1e-4):
                raise InvalidInputError(
                    f"{name}: '{stress}' is not -'{virial}' / volume, so one of them has another sign or unit; say "
                    f"virial_key: {virial} to use the virial (eV, positive = compressed), or leave it out of the file"
                )


def _six(value: Any, name: str, key: str) -> Any:
    """Return a tensor as xx yy zz yz xz xy, (6,)."""
    tensor = np.asarray(value, dtype=float)
    if tensor.size not in (6, 9):
        raise InvalidInputError(f"{name}: '{key}' has {tensor.size} numbers; a stress or virial has 6 or 9")
    if not np.isfinite(tensor).all():
        raise InvalidInputError(f"{name}: '{key}' is {tensor.tolist()}; give finite numbers, or leave it out")
    return tensor.ravel() if tensor.size == 6 else full_3x3_to_voigt_6_stress(tensor.reshape(3, 3))


def _labelled(atoms: Atoms, values: Mapping[str, Any], name: str, keys: _Keys) -> Atoms:
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
        stress = _six(values[keys.stress], name, keys.stress)
        if keys.is_virial:
            if atoms.cell.rank < 3:
                raise InvalidInputError(f"{name} has a virial and no volume (no cell); leave the virial out")
            stress = -stress / atoms.get_volume()
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
