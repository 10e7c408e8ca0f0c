"""The door for structures: what is taken over of what a user gives, what is left out with a remark, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses
from pymatgen.core import Element, IMolecule, IStructure, Species
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.atom_types import NAMED, types_for_elements
from mlip_autopipec.structures.distort import right_handed
from mlip_autopipec.structures.doubts import doubts, rejoined
from mlip_autopipec.structures.electrons import CHARGE, MOMENTS, MULTIPLICITY, check_parity
from mlip_autopipec.structures.frozen import FIXED, FROZEN, fixed_atoms, marked
from mlip_autopipec.structures.limits import refuse_numbers
from mlip_autopipec.structures.masses import masses_of, told_masses
from mlip_autopipec.structures.other_names import about_other_names, computed_moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Names under which programs keep the total charge (e), and the spin multiplicity, in ``atoms.info``.
CHARGES = ("charge", "total_charge", "net_charge", "tot_charge")
MULTIPLICITIES = ("spin", "multiplicity", "spin_multiplicity")
#: What readers of files call partial occupancy.
_OCCUPANCIES = ("occupancy", "occupancies", "occ")
#: Charges below this (e) are rounding; moments below this (Bohr magnetons) are no magnetism.
_NO_CHARGE, _NO_MOMENT = 0.01, 0.1


@dataclass(frozen=True)
class TakenIn:
    """
    A structure as the loop uses it.

    Parameters
    ----------
    atoms
        Elements, positions (A), right-handed cell (A), periodicity, tags; masses (u) where they are not the elements';
        total charge (e), spin multiplicity and initial moments (Bohr magnetons) where they are not 0, 1 and none
        (:mod:`~mlip_autopipec.structures.electrons`); the array ``fixed`` (bool) where the given structure fixes
        atoms. Nothing else.
    remarks
        One line for each thing that was left out or taken over and that a user may not expect.
    """

    atoms: Atoms
    remarks: tuple[str, ...] = ()


def take_in(given: Any, what: str) -> TakenIn:
    """
    Take in one structure.

    Parameters
    ----------
    given
        An ASE Atoms, or a pymatgen Structure or Molecule. It stays as it is.
    what
        How messages name it: its file and frame, or its place in a list.

    Returns
    -------
    TakenIn
        A structure taken in before comes back as it is.

    Raises
    ------
    InvalidInputError
        For partial occupancy, atom types that were read as elements, charges that are no whole numbers, multiplicities
        that the electrons cannot have, non-collinear moments, two masses of one element, dummy atoms and numbers that
        are not finite: the loop would compute something else.
    """
    atoms, heavy = _as_ase(given, what)
    refuse_numbers(atoms, what)
    _refuse_occupancy(atoms, what)
    if (told := types_for_elements(atoms)) is not None:
        raise InvalidInputError(f"{what}: {told}")
    atoms, about_geometry = rejoined(atoms)
    about_geometry += doubts(atoms)
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if NAMED in atoms.info and types_for_elements(bare) is not None:
        bare.info[NAMED] = atoms.info[NAMED]
    remarks = take_electrons(atoms, given, bare, what)
    remarks += [*about_geometry, *about_other_names(atoms), *_about_initial_charges(atoms), *_about_velocities(atoms)]
    if atoms.calc is not None and getattr(atoms.calc, "results", None):
        names = ", ".join(sorted(set(atoms.calc.results) - set(computed_moments(atoms))))
        if names:
            told = f"what was computed for it ({names}) is not used of a structure"
            remarks.append(f"{told}; labels are those of start_from (labels=)")
    if atoms.has("tags"):
        bare.set_tags(atoms.get_tags())
    masses = masses_of(atoms, heavy, what)
    if masses is not None:
        bare.set_masses(masses)
        remarks.append(f"masses of its own are used: {told_masses(bare)}")
    if FROZEN in atoms.arrays:  # a run file or a user's own script has said so
        frozen = marked(atoms, FROZEN, what)
        bare.set_array(FROZEN, frozen)
        if frozen.any():
            remarks.append(f"{frozen.sum()} of {len(atoms)} atoms do not move in MD (its '{FROZEN}')")
        if frozen.all() and len(atoms):
            raise InvalidInputError(f"{what}: its '{FROZEN}' holds all {len(atoms)} atoms; leave some to move")
    fixed, about = fixed_atoms(atoms, what)
    remarks += about
    if fixed is not None:
        bare.set_array(FIXED, fixed)
    return TakenIn(right_handed(bare), tuple(f"{what}: {remark}" for remark in remarks))


def raw_forces(atoms: Atoms) -> NDArray[np.float64]:
    """Return the forces in eV/A as the calculator has them, whatever constraint the atoms carry; (n_atoms, 3)."""
    return np.asarray(atoms.get_forces(apply_constraint=False), dtype=float)


def take_electrons(atoms: Atoms, given: Any, bare: Atoms, what: str) -> list[str]:
    """
    Take over total charge, spin multiplicity and initial magnetic moments, whatever the structure calls them.

    Parameters
    ----------
    atoms
        The structure.
    given
        What the user gave: the same, or an object of pymatgen.
    bare
        Gets ``info["charge"]`` (e), ``info["multiplicity"]`` and the array ``initial_magmoms`` (Bohr magnetons), each
        only where it is not zero or 1.
    what
        How messages name it.

    Returns
    -------
    list of str
        What there is to say.

    Raises
    ------
    InvalidInputError
        For charges that are no whole numbers, multiplicities that the electrons cannot have, non-collinear moments.
    """
    return [*_take_total(atoms, given, bare, what), *_take_moments(atoms, bare, what)]


def _as_ase(given: Any, what: str) -> tuple[Atoms, dict[int, float]]:
    """Return the structure, and masses (u) of sites that pymatgen has as an isotope."""
    if isinstance(given, Atoms):
        return given, {}
    if not isinstance(given, (IStructure, IMolecule)):
        raise InvalidInputError(
            f"{what} is a {type(given).__name__}; give an ase.Atoms, or a Structure or Molecule of pymatgen"
        )
    if not given.is_ordered:
        mixed = next(site for site in given if not site.is_ordered)
        raise InvalidInputError(_partial(what, f"the site {mixed.species_string} at {mixed.coords.round(3).tolist()}"))
    heavy: dict[int, float] = {}
    plain: Any = given.copy()
    spins = [getattr(site.specie, "spin", None) for site in given]
    for index, site in enumerate(given):
        number = getattr(site.specie, "Z", 0)
        if not isinstance(site.specie, (Element, Species)) or not 0 < number < len(atomic_masses):
            raise InvalidInputError(f"{what}: site {index} is '{site.specie}', no element; name the element or drop it")
        mass = float(site.specie.atomic_mass)
        if number == 1 and mass > 1.5:  # pymatgen has deuterium and tritium as elements, ASE has not
            heavy[index] = mass
            plain[index] = "H"
    atoms = AseAtomsAdaptor.get_atoms(plain, msonable=False)
    if any(spins) and not atoms.has("initial_magmoms"):
        atoms.set_initial_magnetic_moments([float(spin or 0.0) for spin in spins])
    velocities = given.site_properties.get("velocities")
    if velocities is not None and not atoms.has("momenta") and all(v is not None for v in velocities):
        atoms.set_velocities(np.asarray(velocities, dtype=float) / units.fs)  # only to say that they are left out
    return atoms, heavy


def _partial(what: str, where: str) -> str:
    return (
        f"{what}: {where} is partly occupied; MD and the oracle need one element on every site. Make an ordered cell "
        "first, for instance a special quasirandom structure (icet, pymatgen's OrderDisorderedStructureTransformation)"
    )


def _refuse_occupancy(atoms: Atoms, what: str) -> None:
    try:
        _refuse_partial(atoms, what)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{what}: its occupancies cannot be read ({error}); give numbers from 0 to 1, or leave them out"
        ) from error


def _refuse_partial(atoms: Atoms, what: str) -> None:
    for name in _OCCUPANCIES:
        if isinstance(kinds := atoms.info.get(name), dict):
            for kind in kinds.values():
                parts = kind if isinstance(kind, dict) else {}
                if len(parts) > 1 or any(float(part) < 1 - 1e-3 for part in parts.values()):
                    mixed = ", ".join(f"{symbol} {part:g}" for symbol, part in parts.items())
                    raise InvalidInputError(_partial(what, f"a site ({mixed})"))
        if name in atoms.arrays:
            occupancy = np.asarray(atoms.arrays[name], dtype=float)
            # files of proteins without any occupancy have 0, or not a number
            if ((occupancy > 0) & (occupancy < 1 - 1e-3)).any():
                index = int(np.flatnonzero((occupancy > 0) & (occupancy < 1 - 1e-3))[0])
                raise InvalidInputError(_partial(what, f"atom {index} ({atoms.symbols[index]} {occupancy[index]:g})"))


def _number(info: Mapping[str, Any], names: Sequence[str], what: str) -> tuple[str, float] | None:
    """Return name and number of what some entries say, whatever their case; refuse those that say no number, or two."""
    found: list[tuple[str, float]] = []
    for name, given in info.items():
        if given is None or str(name).lower() not in names:
            continue
        if isinstance(given, (bool, np.bool_)):  # a bare word in a comment: "charge density of run 3"
            continue
        try:
            value = float(np.asarray(given, dtype=float).reshape(()))
        except (TypeError, ValueError):
            value = float("nan")
        if not np.isfinite(value):
            raise InvalidInputError(f"{what}: {name} is {given!r}; give one whole number, or take the entry out")
        found.append((str(name), value))
    found.sort(key=lambda one: names.index(one[0].lower()))
    if other := next((one for one in found if abs(one[1] - found[0][1]) > 1e-6), None):
        raise InvalidInputError(
            f"{what}: {found[0][0]} is {found[0][1]:g} and {other[0]} is {other[1]:g}; take out the one that is wrong"
        )
    return found[0] if found else None


def _take_total(atoms: Atoms, given: Any, bare: Atoms, what: str) -> list[str]:
    """Take over total charge and spin multiplicity; return what to say of them."""
    told = found = _number(atoms.info, CHARGES, what)
    for attribute in ("_charge", "charge"):  # of pymatgen's classes, and what its adaptor leaves on an Atoms
        if found is None and isinstance(charge := given.__dict__.get(attribute), (int, float)):
            found = ("charge", float(charge))
    remarks = []
    if found is not None and told is None and _is_sum_of_oxidation(found[1], given):
        remarks.append(
            f"its charge of {found[1]:+g} e is the sum of its oxidation states, which pymatgen writes for it, and is "
            "not used: labels are computed for a neutral cell"
        )
        found = None
    if (found is None or abs(found[1]) < _NO_CHARGE) and atoms.has("initial_charges"):
        total = float(np.sum(atoms.get_initial_charges()))
        if not np.isfinite(total):
            raise InvalidInputError(
                f"{what}: the charges of its atoms (initial_charges) are not all finite; give numbers, or take them out"
            )
        # partial charges of a force field add up with a rounding error of each atom
        if abs(total) > max(_NO_CHARGE, 1e-4 * len(atoms)):
            if told is not None:
                raise InvalidInputError(
                    f"{what}: {told[0]} is 0 and the charges of its atoms (initial_charges) add up to {total:+g} e; "
                    "take out the one that is wrong"
                )
            found = ("sum of initial_charges", total)
    if found is not None and abs(found[1]) >= _NO_CHARGE:
        if abs(found[1] - round(found[1])) >= _NO_CHARGE:
            raise InvalidInputError(
                f"{what} has a total charge of {found[1]:+g} e ({found[0]}), no whole number; round it to the number "
                "of electrons that are missing, or take the entry out"
            )
        bare.info[CHARGE] = round(found[1])
        remarks.append(
            f"labels are computed with a total charge of {found[1]:+.0f} e ({found[0]}), a supercell with that of all "
            "its cells, and without stress; ACE itself knows no charges"
        )
    spin = _number(atoms.info, MULTIPLICITIES, what)
    if spin is None and (multiplicity := getattr(given, "_spin_multiplicity", None)) is not None:
        spin = ("spin_multiplicity", float(multiplicity))
    if spin is not None and not (spin[0].lower() == "spin" and spin[1] == 0):  # some programs mean "not known" by it
        if spin[1] < 1 or abs(spin[1] - round(spin[1])) > 1e-6:
            raise InvalidInputError(
                f"{what} has a spin multiplicity of {spin[1]:g} ({spin[0]}); it is 2S + 1: give a whole number, 1 or "
                "more, or take the entry out"
            )
        bare.info[MULTIPLICITY] = round(spin[1])
        check_parity(bare, f"{what} ({spin[0]})")
        if spin[1] == 1:
            del bare.info[MULTIPLICITY]
        else:
            remarks.append(f"labels are computed with a spin multiplicity of {spin[1]:g} ({spin[0]})")
    return remarks


def _is_sum_of_oxidation(charge: float, given: Any) -> bool:
    """Return whether a charge is the sum of the oxidation states of a structure of pymatgen, and not zero."""
    states = [getattr(site.specie, "oxi_state", None) or 0.0 for site in given] if isinstance(given, IStructure) else []
    return abs(charge) >= _NO_CHARGE and abs(sum(states) - charge) < 1e-6


def _take_moments(atoms: Atoms, bare: Atoms, what: str) -> list[str]:
    """Take over the moments that labels begin with; return what to say of them."""
    if not atoms.has("initial_magmoms"):
        return []
    moments = np.asarray(atoms.get_initial_magnetic_moments(), dtype=float)
    if not np.isfinite(moments).all():
        raise InvalidInputError(f"{what} has magnetic moments that are not finite; give numbers in Bohr magnetons")
    if not (np.abs(moments) > _NO_MOMENT).any():
        return []
    if moments.ndim > 1:
        raise InvalidInputError(
            f"{what} has non-collinear magnetic moments; labels begin with collinear ones. Give one number for each "
            "atom, or take them out: the oracle then gives each element its moment (initial_moments_muB of ASE makers, "
            "MAGMOM in incar of VASP)"
        )
    bare.set_array(MOMENTS, moments)
    return [f"labels begin with its magnetic moments ({moments.min():g} to {moments.max():g} Bohr magnetons)"]


def _about_initial_charges(atoms: Atoms) -> list[str]:
    if not atoms.has("initial_charges") or not (np.abs(atoms.get_initial_charges()) > _NO_CHARGE).any():
        return []
    neutral = abs(float(np.sum(atoms.get_initial_charges()))) <= max(_NO_CHARGE, 1e-4 * len(atoms))
    return [f"charges of the atoms{', neutral in all,' if neutral else ', other than their sum,'} are not used"]


def _about_velocities(atoms: Atoms) -> list[str]:
    if not atoms.has("momenta"):
        return []
    if not np.isfinite(atoms.get_momenta()).all():
        return ["velocities that are no numbers are not used: MD draws its own at each temperature, by the seed"]
    kinetic = atoms.get_kinetic_energy() / (1.5 * units.kB * max(len(atoms), 1))
    return [f"velocities ({kinetic:.0f} K) are not used: MD draws its own at each temperature, by the seed"]
