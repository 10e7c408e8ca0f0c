"""Monte Carlo exchanges of two atoms of different elements between MD steps: how alloys mix and order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError, check_whole
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.frozen import frozen_atoms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.lammps.ace_forces import ACEForces


@dataclass
class SwapSettings(MSONable):
    """
    How often two atoms of different elements are exchanged, by the Metropolis rule.

    Parameters
    ----------
    every_steps
        MD steps between two rounds of attempts; a multiple of ``gamma_every``.
    attempts
        Attempts in each round. Each costs one evaluation of the potential.
    temperature_K
        Temperature of the Metropolis rule in K. None: that of the condition.
    """

    every_steps: int = 100
    attempts: int = 10
    temperature_K: float | None = None

    def check(self, gamma_every: int, ensemble: str) -> None:
        """Refuse values and ensembles with which exchanges make no sense."""
        for name in ("every_steps", "attempts"):
            check_whole(f"MDSettings.swap.{name}", getattr(self, name), 1)
        if self.temperature_K is not None and not 0 < self.temperature_K < math.inf:
            raise InvalidInputError.of(
                "MDSettings.swap.temperature_K", f"is {self.temperature_K}; it has to be positive and finite"
            )
        if self.every_steps % gamma_every:
            raise InvalidInputError.of(
                "MDSettings.swap.every_steps",
                f"is {self.every_steps}, which is no multiple of gamma_every = {gamma_every}: gamma is looked at after "
                "each round; change one of them",
            )
        if ensemble == "nve":
            raise InvalidInputError.of(
                "MDSettings.swap", "is given with ensemble nve, whose energy exchanges change; use nvt or npt"
            )

    def at(self, asked_K: float) -> float:
        """Temperature in K of the Metropolis rule where MD is asked for ``asked_K``."""
        return asked_K if self.temperature_K is None else self.temperature_K


@dataclass
class SwapCount:
    """
    What became of the attempts of a run.

    Parameters
    ----------
    attempted, accepted
        Exchanges tried and done.
    """

    attempted: int = 0
    accepted: int = 0


@dataclass
class SwapRound:
    """
    The attempts of one round, on the elements of the atoms alone; who moves them is the engine's matter.

    Parameters
    ----------
    types
        Type of each atom, shape (n_atoms,): they stay those of the atoms, which change places.
    movable
        Whether each atom may be exchanged.
    temperature_K
        Of the Metropolis rule.
    seed, step
        The random numbers of a round follow from both, so a run that is resumed draws what one without a break draws.
    """

    types: NDArray[np.intp]
    movable: NDArray[np.bool_]
    temperature_K: float
    seed: int
    step: int
    count: SwapCount = field(default_factory=SwapCount)

    def attempt(
        self,
        n: int,
        energy: float,
        energy_of: Callable[[NDArray[np.intp]], float],
        is_known: Callable[[NDArray[np.intp]], bool],
    ) -> NDArray[np.intp]:
        """
        Try ``n`` exchanges one after the other.

        Parameters
        ----------
        n
            Attempts.
        energy
            Potential energy in eV of the present state.
        energy_of
            Returns that of a state: which atom sits at the place where each atom was, shape (n_atoms,).
        is_known
            Called at each accepted state; False ends the round there, since the energies of what follows would be
            those of a potential that extrapolates.

        Returns
        -------
        ndarray
            The atom that sits at each place, shape (n_atoms,).
        """
        rng = np.random.default_rng(derive_seed(self.seed, SeedPurpose.SWAPS, self.step))
        places = np.arange(len(self.types))
        free = np.flatnonzero(self.movable)
        if len(np.unique(self.types[free])) < 2:
            return places
        for _ in range(n):
            # which place, and which of the places with another element: the same chance forwards and backwards
            i = rng.choice(free)
            j = rng.choice(free[self.types[places[free]] != self.types[places[i]]])
            threshold = -units.kB * self.temperature_K * math.log(max(rng.random(), 1e-300))
            trial = places.copy()
            trial[[i, j]] = trial[[j, i]]
            found = energy_of(trial)
            self.count.attempted += 1
            if math.isfinite(found) and found - energy <= threshold:
                places, energy = trial, found
                self.count.accepted += 1
                if not is_known(places):
                    break
        return places


def swap_round(
    swap: SwapSettings, lmp: Any, forces: ACEForces, frozen: Sequence[int], asked_K: float, gamma_hi: float, seed: int
) -> tuple[SwapCount, bool]:
    """
    Try one round of exchanges in a LAMMPS that runs as a library; its step has to be set up anew if any was accepted.

    The atoms change places with their velocities, so kinetic energy, momentum and the order of the elements in all
    frames stay. The energies are those of the potential. States that are accepted are graded, and one above
    ``gamma_hi`` ends the round; states that are rejected are not, as MD never goes on from them.

    Parameters
    ----------
    swap
        Attempts and their temperature.
    lmp
        LAMMPS between two runs, on one process.
    forces
        With the present neighbour list; left at the new state or, without one, at the present one.
    frozen
        Indices (from 0) of atoms that are not exchanged.
    asked_K
        Temperature of MD at this step in K.
    gamma_hi
        Threshold that halts MD.
    seed
        Of the walker.

    Returns
    -------
    tuple
        What became of the attempts, and whether atoms changed places.
    """
    n_atoms, n_all = lmp.extract_setting("nlocal"), lmp.extract_setting("nall")
    tags, kinds = (lmp.numpy.extract_atom(name, nelem=n_all).copy() for name in ("id", "type"))
    positions = lmp.numpy.extract_atom("x", nelem=n_all)
    types, slot = np.zeros(n_atoms, dtype=np.intp), np.zeros(n_atoms, dtype=np.intp)
    types[tags[:n_atoms] - 1] = kinds[:n_atoms]
    slot[tags[:n_atoms] - 1] = np.arange(n_atoms)
    movable = np.ones(n_atoms, dtype=bool)
    movable[list(frozen)] = False

    def energy_of(places: NDArray[np.intp], with_gamma: bool = False) -> float:
        forces.set_types(types[places[tags - 1]].astype(np.int32))
        forces.evaluate(positions, with_gamma=with_gamma)
        return forces.energy

    def is_known(places: NDArray[np.intp]) -> bool:
        energy_of(places, with_gamma=True)
        return bool(np.isfinite(forces.gamma).all() and forces.gamma.max() <= gamma_hi)

    unchanged = np.arange(n_atoms)
    one = SwapRound(types, movable, swap.at(asked_K), seed, int(lmp.extract_global("ntimestep")))
    places = one.attempt(swap.attempts, energy_of(unchanged), energy_of, is_known)
    energy_of(places)
    if (places == unchanged).all():
        return one.count, False
    source = slot[places[tags[:n_atoms] - 1]]  # where in memory the atom is that comes to each place
    for name in ("type", "mask", "v", "id"):
        values = lmp.numpy.extract_atom(name, nelem=n_atoms)
        values[:] = values.copy()[source]
    return one.count, True


def can_swap(atoms: Atoms) -> bool:
    """Tell whether at least two atoms of different elements may be exchanged: frozen atoms are not."""
    return len(set(np.delete(atoms.numbers, frozen_atoms(atoms)).tolist())) > 1


def fixes(types: Sequence[int], swap: SwapSettings, group: str, temperature_K: float, seed: int) -> list[str]:
    """
    Return the ``fix atom/swap`` lines of the executable engine: one for each pair of types, as LAMMPS wants it.

    Parameters
    ----------
    types
        LAMMPS types among the atoms that move.
    swap
        Rounds and attempts; the attempts are shared out among the pairs, at least one each.
    group
        Of the atoms that move.
    temperature_K
        Of the Metropolis rule.
    seed
        Of the run.
    """
    pairs = list(combinations(sorted(types), 2))
    return [
        f"fix             swap{a}_{b} {group} atom/swap {swap.every_steps} {max(1, round(swap.attempts / len(pairs)))} "
        f"{derive_seed(seed, SeedPurpose.SWAPS, a, b) % 900_000_000 + 1} {temperature_K:.15g} ke yes types {a} {b}"
        for a, b in pairs
    ]
