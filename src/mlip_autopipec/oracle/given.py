"""The door for labels that a user gives: one form for all, and a look at each before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.balance import about_balance, unbalanced
from mlip_autopipec.oracle.contradictions import contradictions
from mlip_autopipec.oracle.copies import contradicting_copies, without_copies
from mlip_autopipec.oracle.label_keys import refuse_asymmetric
from mlip_autopipec.oracle.left_out import about_left_out
from mlip_autopipec.oracle.magnitude import doubtful_magnitude
from mlip_autopipec.oracle.stale import refuse_stale
from mlip_autopipec.oracle.uneven import about_uneven
from mlip_autopipec.oracle.work import AT_RANDOM, refuse_units
from mlip_autopipec.oracle.zero_forces import forces_set_to_zero, forces_without_a_component
from mlip_autopipec.structures.atom_types import types_for_elements
from mlip_autopipec.structures.distances import MD_RATIO, neighbours, shortest_contact
from mlip_autopipec.structures.distort import right_handed
from mlip_autopipec.structures.doubts import bonds_across, median_in_bohr
from mlip_autopipec.structures.electrons import CHARGE, MULTIPLICITY, charge_of, check_one_state, has_total, told
from mlip_autopipec.structures.intake import take_electrons
from mlip_autopipec.structures.limits import refuse_numbers, shown_formula
from mlip_autopipec.structures.provenance import Origin, Split, about_compositions, mark
from mlip_autopipec.structures.same import same_structures
from mlip_autopipec.structures.successive import about_successive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

#: Force components (eV/A) and stress components (eV/A^3, 3200 GPa) beyond these are of no structure to learn from.
_LARGEST_FORCE, _LARGEST_STRESS = 500.0, 20.0
#: Energies of one composition that differ by more than this (eV/atom) are not of one scale.
_WIDEST_ENERGY = 100.0
#: Energies of cells of several sizes are one number if they differ by less than this share, and that says something of
#: energies above this (eV/atom).
_ALIKE, _BOUND = 0.1, 0.5
#: An atom whose nearest periodic image is further away (A) is alone.
_ALONE_A = 6.0
#: How many structures tell the unit of lengths.
_FIRST = 10
#: How many frames of one fault a message names.
_NAMED = 3


class GivenLabels(list[Atoms]):
    """
    Labels that were taken in; each has energy (eV, the one its forces derive from), forces and perhaps stress.

    Parameters
    ----------
    frames
        The labels.
    remarks
        One line for each thing that a user may not expect.
    """

    def __init__(self, frames: Sequence[Atoms] = (), remarks: Sequence[str] = ()) -> None:
        super().__init__(frames)
        self.remarks = tuple(remarks)


def take_in_labels(
    labels: Sequence[Atoms], names: Sequence[str] | None = None, remarks: Sequence[str] = ()
) -> GivenLabels:
    """
    Bring labels into one form and look at each.

    Parameters
    ----------
    labels
        Structures whose attached calculator holds energy or free energy (eV), forces (eV/A) and, if known, stress
        (eV/A^3, ASE sign). Labels that were taken in come back as they are.
    names
        How messages name each; by default by its place in the list.
    remarks
        What there is to say already.

    Raises
    ------
    InvalidInputError
        Names label and value: something is missing or not finite, forces are huge, atoms lie on top of each other, two
        labels of one structure differ, energies and forces are of different units.
    """
    if isinstance(labels, GivenLabels):
        return labels
    labels = list(labels)
    where = list(names or map(_place, range(len(labels)), labels))
    frames, said = [], [*remarks, *about_left_out(labels, "the given ones")]
    entropies = []
    for atoms, name in zip(labels, where, strict=True):
        frame, entropy = _taken(atoms, name)
        frames.append(frame)
        entropies.append(entropy)
    if n_other := sum(abs(entropy) > 1e-6 for entropy in entropies):
        largest = max(map(abs, entropies))
        said.append(
            f"labels: energy and free_energy differ in {n_other} of {len(frames)} (by up to {largest:.3g} eV); "
            "free_energy is used, which the forces derive from"
        )
    if charged := [atoms for atoms in frames if has_total(atoms)]:
        said.append(f"labels: {len(charged)} of {len(frames)} have {told(charged[0])}; ACE itself knows no charges")
    check_one_state(frames, "the labels")
    for look in (_types, _forces_and_stress, _contacts, _energies, _same_of_all_sizes):
        _refuse(look(frames, where))
    for look in (forces_set_to_zero, forces_without_a_component, unbalanced):
        _refuse(look(frames, where))
    said += [*about_balance(frames), *about_uneven(frames)]
    said += _bonds_across(frames, where)
    said += _lone_atoms(frames, where)
    groups = same_structures(frames)
    _refuse(contradicting_copies(frames, where, groups))
    frames, where, about = without_copies(frames, where, groups)
    said += about
    said += about_successive(frames, where)
    said += [f"labels: {told}" for told in median_in_bohr([atoms for atoms in frames if len(atoms) > 1][:_FIRST])]
    about_units = refuse_units(frames, where)
    said += about_units
    said += contradictions(frames, where)
    if not about_units:
        said += refuse_units(frames, where, AT_RANDOM)
    said += doubtful_magnitude(frames)
    said += about_compositions(frames, "labels: their")
    return GivenLabels(frames, said)


def _place(index: int, label: Any) -> str:
    """Return how messages name a label of a list."""
    if not isinstance(label, Atoms):
        raise InvalidInputError(
            f"labels[{index}] is a {type(label).__name__}; give ase.Atoms with calculators that hold energy and "
            "forces; a file goes to start_from (labels) of a run file"
        )
    return f"labels[{index}] ({shown_formula(label)})"


def _taken(atoms: Atoms, name: str) -> tuple[Atoms, float]:
    """Return the label in the form of all labels, and energy minus free energy in eV where both are given."""
    results = {} if atoms.calc is None else atoms.calc.results
    energy = results.get("free_energy", results.get("energy"))
    if energy is None or results.get("forces") is None:
        raise InvalidInputError(
            f"{name} has no energy or no forces attached; read it from extxyz or attach a SinglePointCalculator"
        )
    if len(atoms) == 0:
        raise InvalidInputError(f"{name} has no atoms; leave it out")
    refuse_numbers(atoms, name)
    refuse_stale(atoms, name)
    forces = np.array(results["forces"], dtype=float)
    if forces.shape != (len(atoms), 3):
        raise InvalidInputError(f"{name} has forces of shape {forces.shape} for {len(atoms)} atoms")
    if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(atoms.positions).all()):
        raise InvalidInputError(
            f"{name} has energy {energy} eV and largest force {np.abs(forces).max()} eV/A; a label has to be finite"
        )
    values: dict[str, Any] = {"energy": float(energy), "forces": forces}
    if (stress := results.get("stress")) is not None:
        voigt = _as_voigt(np.array(stress, dtype=float), name)
        if voigt.any() or not forces.any():  # all zero: it was not computed
            values["stress"] = voigt
    if results.get("magmoms") is not None:
        values["magmoms"] = _as_moments(results["magmoms"], len(atoms), name)
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {key: value for key, value in atoms.info.items() if key not in (CHARGE, MULTIPLICITY)}
    take_electrons(atoms, atoms, bare, name)
    if charge_of(bare):
        values.pop("stress", None)  # it holds the field of the background that makes the cell neutral
    bare = right_handed(bare)
    bare.calc = SinglePointCalculator(bare, **values)
    other = results.get("energy")
    return bare, 0.0 if other is None else float(other) - float(energy)


def _as_moments(moments: Any, n_atoms: int, name: str) -> NDArray[np.float64]:
    """Return the computed moments in Bohr magnetons, (n_atoms,), or (n_atoms, 3) where they are not collinear."""
    values = np.array(moments, dtype=float)
    if values.shape not in ((n_atoms,), (n_atoms, 3)) or not np.isfinite(values).all():
        raise InvalidInputError(
            f"{name} has magnetic moments of shape {values.shape} for {n_atoms} atoms, or some are not finite; give "
            "one number (Bohr magnetons) for each atom, or leave them out"
        )
    return values


def _as_voigt(stress: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Return a stress of six or nine numbers in eV/A^3 as xx yy zz yz xz xy."""
    if not np.isfinite(stress).all():
        raise InvalidInputError(
            f"{name} has the stress {stress.tolist()}; give finite numbers (eV/A^3), or leave the stress out"
        )
    if stress.shape == (6,):
        return stress
    if stress.size != 9:
        raise InvalidInputError(f"{name} has a stress of shape {stress.shape}; give six numbers, or nine")
    refuse_asymmetric(stress.reshape(3, 3), f"{name} has a stress that")
    return np.asarray(full_3x3_to_voigt_6_stress(stress.reshape(3, 3)))


def _refuse(faults: Iterator[str]) -> None:
    found = list(faults)
    if found:
        more = f"; and {len(found) - _NAMED} more like this" if len(found) > _NAMED else ""
        raise InvalidInputError("; ".join(found[:_NAMED]) + more + ". Take these labels out, or mend them")


def _types(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    told = [types_for_elements(atoms) for atoms in frames]
    first = next((i for i, one in enumerate(told) if one is not None), None)
    if first is not None:
        n = sum(one is not None for one in told)
        yield f"{names[first]}" + (f" and {n - 1} more" if n > 1 else "") + f": {told[first]}"


def _forces_and_stress(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    for atoms, name in zip(frames, names, strict=True):
        forces = np.abs(atoms.calc.results["forces"])
        if forces.max() > _LARGEST_FORCE:
            index = int(forces.max(axis=1).argmax())
            yield f"{name} has a force of {forces.max():.3g} eV/A on atom {index} ({atoms.symbols[index]})"
        stress = np.abs(atoms.calc.results.get("stress", 0.0))
        if stress.max() > _LARGEST_STRESS:
            pressure = stress.max() / units.GPa
            yield f"{name} has a stress of {stress.max():.3g} eV/A^3, {pressure:.3g} GPa (is it in kbar?)"


def _contacts(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    for atoms, name in zip(frames, names, strict=True):
        contact = shortest_contact(atoms, MD_RATIO)
        if contact is not None:
            yield f"{name} has {contact[0]} and {contact[1]} {contact[2]:.3f} A apart"


def _energies(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    groups: dict[str, list[int]] = {}
    per_atom = [_energy(atoms) / len(atoms) for atoms in frames]
    for i, atoms in enumerate(frames):
        groups.setdefault(atoms.symbols.formula.reduce()[0].format("hill"), []).append(i)
    for members in groups.values():
        median = float(np.median([per_atom[i] for i in members]))
        for i in members:
            if abs(per_atom[i] - median) > _WIDEST_ENERGY:
                yield f"{names[i]} has {per_atom[i]:.6g} eV/atom, others of this composition {median:.6g}"


def _same_of_all_sizes(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    """Name energies that cells of several sizes have in common: they are those of an atom, or of a smaller cell."""
    groups: dict[str, dict[int, list[int]]] = {}
    for i, atoms in enumerate(frames):
        if len(atoms) > 1:
            composition = atoms.symbols.formula.reduce()[0].format("hill")
            groups.setdefault(composition, {}).setdefault(len(atoms), []).append(i)
    for sizes in groups.values():
        small = min(sizes)
        energies = {n: [_energy(frames[i]) for i in members] for n, members in sizes.items()}
        usual = {n: float(np.median(of_size)) for n, of_size in energies.items()}
        lowest = {n: min(of_size) for n, of_size in energies.items()}
        for n, members in sizes.items():
            # the median of a crushed crystal may be that of half as many atoms at rest, its lowest energy is not
            alike = all(abs(e[n] - e[small]) < _ALIKE * abs(e[small]) for e in (usual, lowest))
            if n >= 2 * small and alike and abs(usual[small]) > _BOUND * small:
                yield (
                    f"{names[members[0]]} and {names[sizes[small][0]]} have the same energy ({usual[n]:.4f} and "
                    f"{usual[small]:.4f} eV, medians) with {n} and {small} atoms: give the energy of the whole cell"
                )


def _bonds_across(frames: Sequence[Atoms], names: Sequence[str]) -> list[str]:
    """Say that labels of a crystal are not periodic: its energies would be learnt for a cluster in vacuum."""
    found = [(name, told[0]) for atoms, name in zip(frames, names, strict=True) if (told := bonds_across(atoms))]
    if not found:
        return []
    return [f"labels: {len(found)} of {len(frames)} like {found[0][0]}: {found[0][1]}"]


def _energy(atoms: Atoms) -> float:
    return float(atoms.calc.results["energy"])


def _lone_atoms(frames: Sequence[Atoms], names: Sequence[str]) -> list[str]:
    """Recognise isolated atoms, and say so; refuse two of one element that differ."""
    alone: dict[str, tuple[float, str]] = {}
    named: dict[str, str] = {}
    said = []
    for atoms, name in zip(frames, names, strict=True):
        if len(atoms) != 1 or charge_of(atoms):
            continue
        is_reference = atoms.info.get("split") == Split.REFERENCE  # by its config_type
        if len(apart := neighbours("d", atoms, _ALONE_A)):
            if is_reference:
                raise InvalidInputError(
                    f"{name} is called an isolated atom, and its periodic images are {min(apart):.2f} A apart; give "
                    f"the energy of an atom in a box of {2 * _ALONE_A:g} A, or take out what it is called"
                )
            continue
        if is_reference:
            named[atoms.symbols[0]] = f"{atoms.symbols[0]} {_energy(atoms):.4f} eV"
        elif "split" not in atoms.info:
            mark(atoms, origin=Origin.ISOLATED_ATOM, split=Split.REFERENCE)
            said.append(f"{name} is a lone atom: {_energy(atoms):.4f} eV becomes the element's reference energy")
        element = atoms.symbols[0]
        other = alone.setdefault(element, (_energy(atoms), name))
        if abs(other[0] - _energy(atoms)) > 0.01:
            raise InvalidInputError(
                f"{name} and {other[1]} are both a lone {element} atom, with {_energy(atoms):.4f} and {other[0]:.4f} "
                "eV; keep the one of the ground state"
            )
    if named:
        listed = ", ".join(named[element] for element in sorted(named))
        said.append(f"labels: frames that are called isolated atoms give the elements' reference energies: {listed}")
    return said
