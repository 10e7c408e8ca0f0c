"""Make-believe POTCARs: our own text in VASP's form, so that input sets find what they ask for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from ase.data import atomic_masses, atomic_numbers, covalent_radii

from vasp_stand_in.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

# folder below PMG_VASP_PSP_DIR where pymatgen looks, and the input set whose symbols are taken
FUNCTIONALS = {
    "PBE_64": ("POT_PAW_PBE_64", "PBE64Base.yaml"),
    "PBE_54": ("POT_GGA_PAW_PBE_54", "PBE54Base.yaml"),
    "PBE": ("POT_GGA_PAW_PBE", "MPRelaxSet.yaml"),
}
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86)
ENMAX_EV = 250.0

POTCAR = """\
  PAW_PBE {symbol} MAKE-BELIEVE
   {zval:.15f}
 parameters from PSCTR are:
   VRHFIN ={element}: make-believe
   LEXCH  = PE
   EATOM  =     0.0000 eV,    0.0000 Ry

   TITEL  = PAW_PBE {symbol} MAKE-BELIEVE
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        0    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =    0.000    partial core radius
   POMASS = {mass:8.3f}; ZVAL   = {zval:8.3f}    mass and valenz
   RCORE  = {radius:8.3f}    outmost cutoff radius
   RWIGS  = {radius:8.3f}; RWIGS  = {radius:8.3f}    wigner-seitz radius (au A)
   ENMAX  = {enmax:8.3f}; ENMIN  = {enmin:8.3f} eV
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   = {eaug:8.3f}
   COPYR  = make-believe POTCAR of mlip_autopipec, holds no data of VASP, unfit for any calculation
END of PSCTR-controll parameters
 local part
   {enmax:.8f}
  0.00000000E+00  0.00000000E+00  0.00000000E+00
 End of Dataset
"""


def write_potcars(
    folder: str | Path,
    elements: Iterable[str] | None = None,
    functional: str = "PBE_64",
    symbols: dict[str, str] | None = None,
    layout: Literal["files", "folders"] = "files",
) -> Path:
    """
    Write make-believe POTCARs where pymatgen looks below ``PMG_VASP_PSP_DIR``.

    Parameters
    ----------
    folder
        What ``PMG_VASP_PSP_DIR`` shall name.
    elements
        Chemical symbols; default all that pymatgen's input sets know.
    functional
        ``PBE_64`` (MatPES), ``PBE_54`` or ``PBE``.
    symbols
        Element to POTCAR symbol, e.g. ``{"Cu": "Cu"}``, where it is not that of the input sets (``Cu_pv``).
    layout
        ``POTCAR.Cu_pv`` ("files") or ``Cu_pv/POTCAR`` ("folders"); pymatgen knows both.

    Returns
    -------
    Path
        The folder.
    """
    if functional not in FUNCTIONALS:
        raise InvalidInputError(f"functional {functional!r} is not one of {', '.join(FUNCTIONALS)}")
    subfolder, table = FUNCTIONALS[functional]
    known = _input_set_symbols(table) | (symbols or {})
    target = Path(folder) / subfolder
    for element in known if elements is None else elements:
        if element not in known:
            raise InvalidInputError(f"{element!r} has no POTCAR in pymatgen's {table}; name its symbol in `symbols`")
        symbol = known[element]
        path = target / f"POTCAR.{symbol}" if layout == "files" else target / symbol / "POTCAR"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make_believe_potcar(element, symbol))
    return Path(folder)


def make_believe_potcar(element: str, symbol: str) -> str:
    """Return the text of one make-believe POTCAR; ZVAL counts the electrons the symbol's suffix stands for."""
    number = atomic_numbers[element]
    return POTCAR.format(
        element=element,
        symbol=symbol,
        zval=float(valence_electrons(element, symbol)),
        mass=atomic_masses[number],
        radius=covalent_radii[number],
        enmax=ENMAX_EV,
        enmin=0.75 * ENMAX_EV,
        eaug=2 * ENMAX_EV,
    )


def valence_electrons(element: str, symbol: str) -> int:
    """
    Count the electrons outside of the closed shells, and the semicore ones of ``_pv``, ``_sv`` and ``_d``.

    So Si has 4, Cu_pv 17 and Li_sv 3, as in VASP's own; lanthanides keep all of their f electrons.
    """
    number = atomic_numbers[element]
    core = max(gas for gas in NOBLE_GASES if gas < number)
    electrons = number - core
    if core >= 54 and electrons > 17:  # f14 belongs to the core from Hf on
        electrons -= 14
    if core >= 18 and electrons > 12:  # d10 from Ga, In and Tl on
        electrons -= 10
    suffixes = symbol.split("_")[1:]
    if "d" in suffixes:
        electrons += 10
    if "pv" in suffixes:
        electrons += 6
    if "sv" in suffixes:
        electrons += 8 if core > 2 else 2
    return electrons


def _input_set_symbols(table: str) -> dict[str, str]:
    """Read element to symbol from pymatgen's table, without the seconds that importing pymatgen takes."""
    spec = find_spec("pymatgen.io.vasp")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInputError("pymatgen is not installed: its tables of POTCAR symbols are needed")
    path = Path(spec.submodule_search_locations[0]) / table
    return dict(yaml.safe_load(path.read_text())["POTCAR"])
