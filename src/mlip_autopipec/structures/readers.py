"""Files of structures: read as plain arrays by readers that run no code, import nothing that a file names, and end."""

from __future__ import annotations

import fnmatch
import io
import json
import re
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import ase.io
from ase import Atoms
from ase.io.aims import read_aims_output
from ase.io.formats import UnknownFileTypeError, filetype, ioformats
from pymatgen.core import Molecule, Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.atom_types import NAMED, lammps_format, named_xyz, no_element
from mlip_autopipec.structures.cifs import has_moments, in_a_known_setting, magnetic_structure, with_elements
from mlip_autopipec.structures.file_doubts import about_file
from mlip_autopipec.structures.periodicity import Shape, shape_of
from mlip_autopipec.structures.provenance import ISOLATED
from mlip_autopipec.structures.texts import OPENERS, readable, text_of
from mlip_autopipec.structures.xyz_text import where_damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
        Element of each atom type of a file of LAMMPS, or of an xyz file with types instead of elements.

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
        if (found := no_element(error)) is not None:
            why, remedy = found
        elif "Could not determine chemical symbols" in why:
            why = "it has no line of elements"
            remedy = "write one above the numbers of atoms, as VASP 5 has it"
        where = ""
        if no_element(error) is None and {".xyz", ".extxyz"} & set(path.suffixes[-2:]):
            with suppress(Exception):  # a packed file may be damaged as such
                where = where_damaged(text_of(path))
            remedy = "mend the file, or take that frame out" if where else remedy
        raise InvalidInputError(f"structures.file: '{path}' cannot be read{where} ({why}); {remedy}") from error


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
    of_lammps = lammps_format(path, elements)
    if of_lammps is not None:
        return _by_ase(path, **of_lammps)
    if elements and not {".xyz", ".extxyz"} & set(path.suffixes[-2:]):
        raise InvalidInputError.of(
            "structures.elements",
            f"is {list(elements)}, and '{path}' is no file of LAMMPS and no xyz file: it names its elements itself",
        )
    if elements:
        return _of_xyz(named_xyz(path, elements), elements)
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
    if found == "db":
        raise InvalidInputError(
            f"structures.file: '{path}' has the format 'db', which is not read here; write it as extxyz, as `ase "
            f"convert {path.name} {path.stem}.extxyz` does with energies and forces"
        )
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
            with _named(path):
                text = with_elements(text_of(path))
            if has_moments(text):
                return Read(magnetic_structure(text))
            source = io.BytesIO(in_a_known_setting(text).encode())
        found = ase.io.read(source, index, do_not_split_by_at_sign=True, **arguments)
    structures = found if isinstance(found, list) else [found]
    if len(structures) > 1 and len(structures[-1]) == 0:  # what stands behind the last model of a PDB file
        structures = structures[:-1]
    if not structures or not isinstance(structures[-1], Atoms):
        raise InvalidInputError(f"structures.file: '{path}' holds no structure; {_REMEDY}")
    chosen = -1
    if len(structures) > 1 and _is_set_aside(structures[-1]):
        if not isinstance(source, str):
            source.seek(0)
        structures = list(ase.io.read(source, ":", do_not_split_by_at_sign=True, **arguments))
        chosen = _last_ordinary(structures, path)
    # a calculator that a reader attaches holds numbers; nothing is asked of it
    atoms = structures[chosen]
    with _named(path):
        remarks = about_file(path, arguments["format"], atoms)
    if "specorder" in arguments or "Z_of_type" in arguments:  # named by the user, or by the file itself
        atoms.info[NAMED] = sorted(set(atoms.symbols))
    if len(structures) > 1:
        formula, which = atoms.get_chemical_formula(), "the last"
        if chosen >= 0:
            which = f"frame {chosen} (from 0), behind which are isolated atoms or structures that are held out alone,"
        remarks.insert(0, f"it holds several structures; {which} is used ({formula})")
    return Read(atoms, tuple(remarks))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have what is wrong with a file named with it."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"structures.file: '{path}': {error}") from error


def _is_set_aside(atoms: Atoms) -> bool:
    """Return whether a frame of a dataset is an isolated atom, or held out."""
    return _is_lone(atoms) or str(atoms.info.get("split", "train")) != "train"


def _is_lone(atoms: Atoms) -> bool:
    named = str(atoms.info.get("config_type", "")).lower() in ISOLATED
    return len(atoms) == 1 and (named or shape_of(atoms) is Shape.CLUSTER)


def _last_ordinary(structures: Sequence[Any], path: Path) -> int:
    """Return the index of the last structure that is to be trained on, else of the last that is no isolated atom."""
    for wrong in (_is_set_aside, _is_lone):
        for index in reversed(range(len(structures))):
            if not wrong(structures[index]):
                return index
    raise InvalidInputError(
        f"structures.file: '{path}' holds {len(structures)} isolated atoms and no other structure; name a file with a "
        "structure"
    )


def _of_xyz(text: str, elements: Sequence[str]) -> Read:
    """Read the last frame of an xyz file whose atom types were named."""
    atoms = ase.io.read(io.StringIO(text), -1, format="extxyz")
    assert isinstance(atoms, Atoms)
    atoms.info[NAMED] = list(elements)
    return Read(atoms)


def _of_json(path: Path) -> Read:
    """Read a structure or molecule of pymatgen, or one that ASE wrote; no class that the file names is made."""
    text = text_of(path)
    if re.search(r"^(conditions|structures|oracle):", text, re.MULTILINE):
        raise InvalidInputError(f"structures.file: '{path}' is a run file; name a file with a structure")
    try:
        content = json.loads(text)
    except ValueError as error:
        if {".yaml", ".yml"} & {suffix.lower() for suffix in path.suffixes[-2:]}:
            raise InvalidInputError(
                f"structures.file: '{path}' is YAML, which is not read here; of pymatgen write JSON "
                f'(structure.to(filename="{path.stem}.json")), or {_REMEDY}'
            ) from error
        raise
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
