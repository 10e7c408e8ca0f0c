"""Datasets packed by gzip."""

import gzip
import io
from pathlib import Path

import ase.io
from ase import Atoms


def read_packed(path: Path) -> list[Atoms]:
    """Read all structures; ASE would unpack the file anew for each of them, to go back to where it begins."""
    with gzip.open(path, "rt") as stream:
        return ase.io.read(io.StringIO(stream.read()), ":", format="extxyz")
