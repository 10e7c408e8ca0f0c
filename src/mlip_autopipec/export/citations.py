"""What to cite for a potential: its methods, and the codes that made it."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from mlip_autopipec.kinds import ORACLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.oracle.record import OracleRecord

#: Entries of ``references.bib`` with what each stands for, in the order in which they are written.
_ALWAYS = {
    "Drautz2019": "the atomic cluster expansion",
    "Lysogorskiy2021": "its implementation in pyace and in LAMMPS (ML-PACE)",
    "Bochkarev2022": "its parametrisation in pacemaker",
    "Lysogorskiy2023": "the extrapolation grade and active learning with it",
    "Podryabinkin2017": "D-optimal active sets",
    "Thompson2022": "LAMMPS",
    "HjorthLarsen2017": "ASE",
    "Ganose2025": "atomate2",
    "Rosen2024": "jobflow",
    "Ong2013": "pymatgen",
}
_GRACE = {"Bochkarev2024": "GRACE, of which the potential is the FS form"}
_FUNCTIONALS = {r"\bpbe\b": {"Perdew1996": "the functional PBE"}}


def citations(records: Sequence[OracleRecord], oracle: str, *, grace: bool) -> str:
    """
    Write a BibTeX file.

    Parameters
    ----------
    records
        Levels of theory of the labels.
    oracle
        Class of the maker that labelled, for labels that do not tell.
    grace
        Whether the potential is a GRACE-FS potential.

    Returns
    -------
    str
        One entry for each method and code; a code that is not known here is named in a comment, to be added.
    """
    wanted = {**_ALWAYS, **(_GRACE if grace else {})}
    unknown = []
    oracles = list(ORACLES.usable().values())
    known = [(pattern, keys) for kind in oracles for pattern, keys in kind.citations.items()]
    # a given dataset is as good as unknown, and then the maker is what labelled the rest
    for name in dict.fromkeys([r.code for r in records] or [oracle]):
        found = [keys for pattern, keys in known if re.search(pattern, name, re.IGNORECASE)]
        for keys in found:
            wanted |= keys
        if not found:
            unknown.append(name or "the code that made the labels")
    for record in records:
        for pattern, keys in _FUNCTIONALS.items():
            if record.functional and re.search(pattern, record.functional, re.IGNORECASE):
                wanted |= keys
    entries = _entries("\n".join(kind.bibtex for kind in oracles))
    parts = ["% What to cite with this potential: its methods, and the codes that made it."]
    # BibTeX knows no comments, only text between entries: a name from a database must not begin one
    told = [re.sub(r"[^\w. -]", " ", name).strip() for name in unknown]
    parts += [f"% Not known to mlip-autopipec, add it yourself: {' '.join(name.split())}" for name in told]
    parts += [f"% {what}\n{entries[key]}" for key, what in wanted.items()]
    return "\n\n".join(parts) + "\n"


def _entries(others: str) -> dict[str, str]:
    """Return BibTeX entries by key: those of this package, and those in a text of other packages."""
    text = (files("mlip_autopipec.export") / "references.bib").read_text(encoding="utf-8") + "\n" + others
    found = [entry.strip() for entry in re.split(r"\n(?=@)", text) if entry.strip()]
    return {re.match(r"@\w+\{(\w+),", entry)[1]: entry for entry in found}  # type: ignore[index]
