"""Seeds: each derived from the campaign's seed and from what it is for, and stored with what was made with it."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class SeedPurpose(StrEnum):
    """What a seed is for, with the numbers that go with it."""

    FIRST_DATASET = "first_dataset"
    """Structures of the first dataset."""
    WALKER = "walker"
    """Velocities and thermostat of a walker: its number, its number of restarts."""
    CANDIDATES = "candidates"
    """Candidates around a halt: cycle, walker."""
    CUTOUTS = "cutouts"
    """Orientations of cut-outs around a halt; from the seed of its candidates."""
    CUTOUT_CANDIDATES = "cutout_candidates"
    """Candidates of one cut-out: number of the cut-out; from the seed of the candidates."""
    SWAPS = "swaps"
    """Exchanges of atoms in MD, from the seed of the walker: step (library engine), two types (executable)."""
    COLVARS = "colvars"
    """Random forces on collective variables, from the seed of the walker: step."""
    TEACHER = "teacher"
    """MD of a teacher: structure and condition; structures that it labels; the fit to its labels."""
    TRAINING = "training"
    """A fit: cycle."""
    CHECK = "check"
    """Which frames a check takes: cycle."""
    CHECK_CUTOUTS = "check_cutouts"
    """Orientations of the cut-outs of a check: cycle."""
    VALIDATION = "validation"
    """MD of the oracle itself: structure, condition."""
    EXAMPLE = "example"
    """The MD example of an exported potential."""


def derive_seed(seed: int, purpose: SeedPurpose, *numbers: int) -> int:
    """
    Derive a seed.

    Parameters
    ----------
    seed
        Of the campaign.
    purpose
        What it is for: seeds of different purposes have nothing to do with each other.
    numbers
        Cycle, walker and the like.

    Returns
    -------
    int
        0 to 2^31 - 2, as LAMMPS takes them. The same arguments give the same seed, on any machine.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, purpose, *numbers))).encode()).digest()
    return int.from_bytes(digest[:8]) % (2**31 - 1)
