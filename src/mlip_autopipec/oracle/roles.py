"""Files that are given as labels and are something else: what they are, and where they go."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlip_autopipec.structures.readers import FORMATS

if TYPE_CHECKING:
    from pathlib import Path

_AS_XYZ = "write it as extended XYZ, with energies in eV and forces in eV/A"
_OF_LABELS = "labels are vasprun.xml, OUTCAR or another output of the code, or extended XYZ with energies and forces"
#: Data sets of other programs and settings of codes, by the beginning of their text or by their name: what they are,
#: and what to do.
_BY_TEXT = (
    (re.compile(r"^\s*BEGIN_CFG", re.MULTILINE), f"is a data set of MLIP (moment tensor potentials); {_AS_XYZ}"),
    (re.compile(r"^begin\s*\n(?:.*\n)*?\s*atom ", re.MULTILINE), f"is a data set of RuNNer or n2p2; {_AS_XYZ}"),
    (re.compile(r"1\.0 Version"), "is an ML_AB file of VASP; give the vasprun.xml or OUTCAR of that run instead"),
    (re.compile(r"^ITEM: TIMESTEP"), f"is a dump of LAMMPS, whose forces are those of its potential; {_OF_LABELS}"),
    (re.compile(r"^(conditions|structures|oracle):", re.MULTILINE), f"is a run file; {_OF_LABELS}"),
    (
        re.compile(r'^\{"\d+": \{'),
        "is JSON of ASE; `ase convert data.json data.extxyz` writes extended XYZ, with energies and forces",
    ),
    (
        re.compile(r"^(elements|embeddings|functions|global|bonds):", re.MULTILINE),
        "is a potential; it goes to potential",
    ),
)
_BY_NAME = (
    (re.compile(r"\.(npy|npz|raw|hdf5|h5)$"), f"is an array or data set of another program (DeePMD ...); {_AS_XYZ}"),
    (re.compile(r"\.(pckl|pkl|pickle)(\.gzip|\.gz)?$"), f"is a pickle, which runs code when it is read; {_AS_XYZ}"),
    (
        re.compile(r"\.(db|aselmdb|lmdb)$"),
        "is a data base; for one of ASE `ase convert data.db data.extxyz` writes extended XYZ",
    ),
    (re.compile(r"\.(json|csv|txt|dat)$"), f"is a table or a document; {_AS_XYZ}"),
    (
        re.compile(r"^(INCAR|KPOINTS|POTCAR|OSZICAR|DOSCAR|EIGENVAL|WAVECAR|CHGCAR)"),
        f"holds no forces of VASP; {_OF_LABELS}",
    ),
)


def no_labels(path: Path, found: str | None, head: str) -> str:
    """
    Say what a file is that holds no labels, and where it goes.

    Parameters
    ----------
    path
        The file.
    found
        ASE's name of its format, if it knows one.
    head
        Beginning of its text.

    Returns
    -------
    str
        The rest of a sentence; empty where the file is not known.
    """
    for pattern, told in _BY_TEXT:
        if pattern.search(head):
            return told
    for pattern, told in _BY_NAME:
        if pattern.search(path.name):
            return told
    if found in FORMATS:
        return f"is a structure ({found}) without energies and forces, which goes to structures; {_OF_LABELS}"
    return ""
