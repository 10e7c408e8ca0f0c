"""Files of structures: read as plain arrays by readers that run no code, import nothing that a file names, and end."""

from __future__ import annotations

import fnmatch
import io
import json
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import ase.io
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io.aims import read_aims_output
from ase.io.formats import UnknownFileTypeError, filetype, ioformats
from pymatgen.core import Molecule, Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.cifs import has_moments, in_a_known_setting, magnetic_structure
from mlip_autopipec.structures.file_doubts import about_file
from mlip_autopipec.structures.texts import OPENERS, readable, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Formats of ASE whose readers take numbers and words out of a file and do nothing else. Left out are those that open a
#: data base or a connection (db, mysql, postgresql), make a calculator that looks for its program (castep-*, onetep-*,
#: gaussian-in, nwchem-in ...), read folders, or are added by other packages.
FORMATS = frozenset(
    "abinit-in abinit-out aims aims-output cfg cif cjson cube dftb dlp4 dlp-history dmol-arc dmol-car dmol-incoor "
    "espresso-in espresso-out extxyz gen gpumd gromacs gromos jsv lammps-data lammps-dump-text mol proteindatabank "
    "qbox res rmc6f runnerdata sdf siesta-xv struct struct_out sys traj turbomole v-sim vasp vasp-out vasp-xdatcar "
    "vasp-xml wout xsd xsf xtd xyz".split()
)
#: Names of files that pymatgen reads and ASE does not.
_OF_PYMATGEN = ("*CHGCAR*", "*LOCPOT*", "*.cssr*", "*rndstr.in*", "*bestsqs*")
#: Largest file of a structure in bytes, unpacked: some three million atoms as text.
LARGEST_BYTES = 200_000_000
#: Beginning of a file in which LAMMPS' own formats show, in characters.
_HEAD = 20_000
#: Share by which a mass may differ from that of its element: deuterium is twice as heavy as hydrogen.
_OTHER_MASS = 0.6
_REMEDY = "write it as extxyz, CIF or POSCAR"


class Read(NamedTuple):
    """
    What a file holds.

    Parameters
    ----------
    structure
        The last of its structures.
    remarks
        One line for each thing that a user may not expect of it.
    """

    structure: Atoms | Structure | Molecule
    remarks: tuple[str, ...] = ()


def read_structure(path: Path, elements: Sequence[str] = ()) -> Read:
    """
    Read a structure.

    Parameters
    ----------
    path
        The file; of several structures the last is taken.
    elements
        Element of each atom type of a LAMMPS file.

    Returns
    -------
    Read
        The structure, and what there is to say of the file.

    Raises
    ------
    InvalidInputError
        It is not there, too large, of a format that is not read here, damaged, or names a class of Python.
    """
    if not path.is_file():
        there = "is no file" if path.exists() else "does not exist"
        raise InvalidInputError(f"structures.file: '{path}' {there}; name a file with a structure")
    try:
        _refuse_large(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers, about what they leave out
            return _read(path, elements)
    except InvalidInputError:
        raise
    except (Exception, RecursionError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        remedy = _REMEDY
        if isinstance(error, KeyError) and error.args in (("D",), ("T",)):
            why = f"{error.args[0]} is no element to ASE"
            remedy = "call it H, and give the masses in u of all atoms, as the column masses:R:1 of extxyz"
        elif isinstance(error, KeyError) and re.fullmatch(r"[A-Z][\w()+-]{0,7}|\d{1,3}", str((*error.args, "")[0])):
            why, remedy = f"'{error.args[0]}' is no element", "name the elements of its atoms: H, He, Li ..."
        elif "Could not determine chemical symbols" in why:
            why = "it has no line of elements"
            remedy = "write one above the numbers of atoms, as VASP 5 has it"
        raise InvalidInputError(f"structures.file: '{path}' cannot be read ({why}); {remedy}") from error


def _refuse_large(path: Path) -> None:
    """Refuse what would fill the memory, also once it is unpacked."""
    size = path.stat().st_size
    opener: Any = OPENERS.get(path.suffix)
    if opener is not None and size <= LARGEST_BYTES:
        size = 0
        with opener(path, "rb") as stream:
            while size <= LARGEST_BYTES and (some := stream.read(1 << 20)):
                size += len(some)
    if size > LARGEST_BYTES:
        raise InvalidInputError(
            f"structures.file: '{path}' holds more than {LARGEST_BYTES / 1e6:.0f} MB; give a file with one structure"
        )


def _read(path: Path, elements: Sequence[str]) -> Read:
    if path.stat().st_size == 0:
        raise InvalidInputError(f"structures.file: '{path}' is empty; name a file with a structure")
    of_lammps = _lammps_format(path, elements)
    if of_lammps is None and elements:
        raise InvalidInputError.of(
            "structures.elements", f"is {list(elements)}, and '{path}' is no LAMMPS file: it names its elements itself"
        )
    if of_lammps is not None:
        return _by_ase(path, **of_lammps)
    if {".json", ".mson", ".yaml", ".yml"} & {suffix.lower() for suffix in path.suffixes[-2:]}:
        return _of_json(path)
    if ".mcif" in path.suffixes:
        return Read(magnetic_structure(text_of(path)))
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in _OF_PYMATGEN):
        return Read(Structure.from_file(path))
    try:
        found = filetype(str(path))
    except UnknownFileTypeError as error:
        raise InvalidInputError(f"structures.file: the format of '{path}' is not known; {_REMEDY}") from error
    if found not in FORMATS:
        raise InvalidInputError(
            f"structures.file: '{path}' has the format '{found}', which is not read here; {_REMEDY}"
        )
    return _by_ase(path, format=found)


def _by_ase(path: Path, **arguments: Any) -> Read:
    index = -1 if ioformats[arguments["format"]].single else slice(-2, None)
    of_format = ioformats[arguments["format"]]
    if arguments["format"] == "aims-output":
        # the structure of the last step of MD has another heading, without which ASE takes the first one of the run
        text = text_of(path)
        if "Have a nice day." not in text[-2000:]:
            raise InvalidInputError(
                f"structures.file: '{path}' is an output of FHI-aims of a run that did not end; give its "
                "geometry.in.next_step, or write a step as extxyz"
            )
        text = text.replace("Final atomic structure (and", "Atomic structure (and")
        found: Any = read_aims_output(io.StringIO(text), index=index, non_convergence_ok=True)
    else:
        source: Any = readable(path, binary=of_format.isbinary) if of_format.acceptsfd else str(path)
        if arguments["format"] == "cif":
            text = text_of(path)
            if has_moments(text):
                return Read(magnetic_structure(text))
            source = io.BytesIO(in_a_known_setting(text).encode())
        found = ase.io.read(source, index, do_not_split_by_at_sign=True, **arguments)
    structures = found if isinstance(found, list) else [found]
    if len(structures) > 1 and len(structures[-1]) == 0:  # what stands behind the last model of a PDB file
        structures = structures[:-1]
    if not structures or not isinstance(structures[-1], Atoms):
        raise InvalidInputError(f"structures.file: '{path}' holds no structure; {_REMEDY}")
    # a calculator that a reader attaches holds numbers; nothing is asked of it
    atoms = structures[-1]
    try:
        remarks = about_file(path, arguments["format"], atoms)
    except InvalidInputError as error:
        raise InvalidInputError(f"structures.file: '{path}': {error}") from error
    if len(structures) > 1:
        remarks.insert(0, f"it holds several structures; the last is used ({atoms.get_chemical_formula()})")
    return Read(atoms, tuple(remarks))


def _of_json(path: Path) -> Read:
    """Read a structure or molecule of pymatgen, or one that ASE wrote; no class that the file names is made."""
    text = text_of(path)
    if re.search(r"^(conditions|structures|oracle):", text, re.MULTILINE):
        raise InvalidInputError(f"structures.file: '{path}' is a run file; name a file with a structure")
    content = json.loads(text)
    if isinstance(content, dict) and "structure" in content and "sites" not in content:
        content = content["structure"]
    if isinstance(content, dict) and "sites" in content:
        _refuse_classes(content, path)
        return Read((Structure if "lattice" in content else Molecule).from_dict(content))
    if isinstance(content, dict) and isinstance(content.get("ids"), list):
        return _by_ase(path, format="json")
    raise InvalidInputError(f"structures.file: '{path}' holds no structure of pymatgen or ASE; {_REMEDY}")


def _refuse_classes(content: dict[str, Any], path: Path) -> None:
    """Refuse JSON from which pymatgen would import a module and make an object: plain structures name pymatgen.core."""
    todo: list[tuple[str, Any]] = [("", content)]
    while todo:
        where, value = todo.pop()
        if isinstance(value, dict):
            module = value.get("@module")
            plain = module is None or (isinstance(module, str) and re.fullmatch(r"pymatgen\.core(\.\w+)*", module))
            named = "@callable" in value or (where.startswith(".properties") and "@class" in value)
            if not plain or named:
                name = ".".join(str(value.get(key, "?")) for key in ("@module", "@class"))
                raise InvalidInputError(
                    f"structures.file: '{path}' names the class {name} in {where.lstrip('.') or 'its top'}; only "
                    f"numbers and words are read. Take that entry out, or {_REMEDY}"
                )
            todo += [(f"{where}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [(where, item) for item in value if isinstance(item, (dict, list))]


def _lammps_format(path: Path, elements: Sequence[str]) -> dict[str, Any] | None:
    """Return how ASE is to read a file of LAMMPS, whose atom types are no elements; None for other files."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD).decode(errors="replace")
    is_data = re.search(r"^\s*\d+\s+atom types", head, re.MULTILINE) and re.search(r"xlo\s+xhi|\bavec\b", head)
    columns = re.search(r"^ITEM: ATOMS (.*)$", head, re.MULTILINE)
    if not is_data and columns is None:
        return None
    if unknown := [element for element in elements if element not in atomic_numbers]:
        raise InvalidInputError(f"structures.elements: {unknown} are no elements")
    if columns is not None:
        if not elements and not {"element", "mass"} & set(columns[1].split()):
            raise InvalidInputError(_nameless(path, "its columns are " + columns[1].strip()))
        return {"format": "lammps-dump-text"} | ({"specorder": list(elements)} if elements else {})
    types = {number + 1: atomic_numbers[element] for number, element in enumerate(elements)}
    text = path.read_text(errors="replace")
    n_types = int(re.findall(r"^\s*(\d+)\s+atom types", head, re.MULTILINE)[0])
    if types and len(types) != n_types:
        raise InvalidInputError.of("structures.elements", f"is {list(elements)}, and '{path}' has {n_types} atom types")
    named = _section(text, "Atom Type Labels")
    if not types and named and all(name in atomic_numbers for name in named):
        types = {number: atomic_numbers[name] for number, name in enumerate(named, 1)}
    if not types:
        masses = [float(mass) for mass in _section(text, "Masses")]
        if not masses:
            raise InvalidInputError(_nameless(path, "it has no section Masses"))
        # a mass of just 1, or the same one for several types, stands for nothing (hydrogen has 1.008 u)
        if 1.0 in masses or len({round(mass, 3) for mass in masses}) < len(masses):
            raise InvalidInputError(_nameless(path, f"its masses are {masses}"))
        for mass, word in zip(masses, _section(text, "Masses", of_comments=True), strict=True):
            named_so = atomic_numbers.get(word)
            if named_so is not None and abs(atomic_masses[named_so] - mass) > _OTHER_MASS * mass:
                raise InvalidInputError(_nameless(path, f"its mass {mass:g} has the comment {word}"))
    return {"format": "lammps-data"} | ({"Z_of_type": types} if types else {})


def _section(text: str, name: str, *, of_comments: bool = False) -> list[str]:
    """Return the second word, or the first of the comment, of each line of a section of a LAMMPS data file."""
    found: list[str] = []
    inside = False
    for full in text.splitlines():
        line, _, comment = full.partition("#")
        words = line.split()
        if words and not words[0].isdigit():
            inside = " ".join(words) == name
        elif inside and len(words) > 1:
            found.append((comment.split() or [""])[0] if of_comments else words[1])
    return found


def _nameless(path: Path, why: str) -> str:
    return (
        f"structures.file: '{path}' is a LAMMPS file that does not say which elements its atom types are ({why}). Name "
        "them in the run file, in the order of the types: {file: ..., elements: [Ni, Al]}; or write the file with a "
        "section Masses, or a dump with a column element"
    )
