"""Files that decide what an oracle computes: pseudopotentials, models. Their contents belong to the key of a label."""

from __future__ import annotations

import hashlib
import logging
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ase import Atoms

logger = logging.getLogger(__name__)

#: Entries of ASE's configuration that name folders of pseudopotentials.
_FOLDERS = ("pseudo_dir", "pp_paths", "pseudo_path", "sto_dir")


def files_read(maker: Any, atoms: Atoms) -> dict[str, str]:
    """
    Return what the files hold that a maker reads to compute a structure, as far as they are on this machine.

    Three kinds are known: what a maker names itself (its method ``files``); any text among its settings that names a
    file; and, for calculators that ASE configures, the pseudopotentials of the structure's elements in the folders of
    that configuration.

    Parameters
    ----------
    maker
        A static maker.
    atoms
        The structure.

    Returns
    -------
    dict
        For each element, or setting, the name of its file and the SHA-256 of its contents.
    """
    elements = sorted(set(atoms.get_chemical_symbols()))
    named: dict[str, Path] = {}
    if hasattr(maker, "files"):
        named |= {element: path for element, path in maker.files().items() if element in elements}
    else:
        settings = getattr(maker, "calculator_kwargs", None) or {}
        named |= dict(_files_in(settings, "calculator_kwargs"))
        named |= _configured(str(getattr(maker, "calculator_class", "")), settings, elements)
    return {name: f"{path.name} {_sha256(path, path.stat().st_mtime_ns)}" for name, path in named.items()}


def _files_in(value: Any, name: str) -> Iterator[tuple[str, Path]]:
    """Find the settings that name a file."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _files_in(item, f"{name}:{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _files_in(item, f"{name}:{index}")
    elif isinstance(value, (str, Path)) and 0 < len(str(value)) < 1024 and "\n" not in str(value):
        path = Path(value).expanduser()
        if ("/" in str(value) or path.suffix) and path.is_file():
            yield name, path


def _configured(calculator_class: str, settings: Mapping[str, Any], elements: list[str]) -> dict[str, Path]:
    """Find the pseudopotentials of an ASE calculator in the folders that ASE's configuration names."""
    from ase.config import cfg

    section = calculator_class.rpartition(".")[2].lower()
    if section not in cfg.parser:
        return {}
    folders = [
        Path(folder).expanduser()
        for entry in _FOLDERS
        for folder in cfg.parser[section].get(entry, "").split()
        if Path(folder).expanduser().is_dir()
    ]
    given = settings.get("pseudopotentials") or {}
    found: dict[str, Path] = {}
    for element in elements:
        names = [given[element]] if element in given else [f"{element}{end}" for end in (".*", "_*", "-*")]
        files = sorted(path for folder in folders for name in names for path in folder.glob(name) if path.is_file())
        found |= {element if element in given else f"{element}:{path.name}": path for path in files}
    return found


@lru_cache(maxsize=256)
def _sha256(path: Path, changed_ns: int) -> str:
    del changed_ns  # a file that was written again is read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def potcar_named(symbol: str, functional: str) -> str:
    """
    Return the name of a POTCAR, with the SHA-256 of what it holds where it is on this machine.

    Parameters
    ----------
    symbol
        Such as ``Cu_pv``.
    functional
        Release, such as ``PBE_64``.
    """
    found = _potcar(symbol, functional, str(SETTINGS.get("PMG_VASP_PSP_DIR") or ""))
    return symbol if found is None else f"{symbol} {found[0]}"


def cutoffs_of_potcar(symbol: str, functional: str) -> tuple[float, float] | None:
    """
    Return ENMIN and ENMAX of a POTCAR in eV; None where it is not on this machine.

    Parameters
    ----------
    symbol, functional
        As for :func:`potcar_named`.
    """
    found = _potcar(symbol, functional, str(SETTINGS.get("PMG_VASP_PSP_DIR") or ""))
    return None if found is None else found[1]


@lru_cache(maxsize=256)
def _potcar(symbol: str, functional: str, folder: str) -> tuple[str, tuple[float, float] | None] | None:
    """Read SHA-256, ENMIN and ENMAX of a POTCAR."""
    if not folder:
        return None
    from pymatgen.io.vasp import PotcarSingle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about POTCARs that pymatgen does not know
            found = PotcarSingle.from_symbol_and_functional(symbol, functional)
    except Exception:  # none of this name, or none that can be read: VASP's own job will say so
        logger.debug("the POTCAR %s of %s is not read", symbol, functional, exc_info=True)
        return None
    least, most = (found.keywords.get(name) for name in ("ENMIN", "ENMAX"))
    known = None if least is None or most is None else (float(least), float(most))
    return hashlib.sha256(found.data.encode()).hexdigest(), known
