"""Bonds that break and ways over a crest are right labels, however coarse; forces of another frame are not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.contradictions import contradictions
from mlip_autopipec.oracle.near import Pair


def _label(atoms):
    atoms.calc = EMT()
    return _with(atoms, atoms.get_potential_energy(), atoms.get_forces())


def _with(atoms, energy, forces):
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def _dimers(distances):
    return [_label(Atoms("Cu2", [[3, 3, 3], [3, 3, 3 + d]], cell=[18] * 3, pbc=True)) for d in distances]


def _paths(n_paths, n_images):
    rng, found = np.random.default_rng(0), []
    for _ in range(n_paths):
        slab = fcc100("Al", (3, 3, 3))
        add_adsorbate(slab, "Al", 1.7, "hollow")
        slab.center(vacuum=6, axis=2)
        slab.positions += rng.normal(0, 0.03, slab.positions.shape)
        for t in np.linspace(0, 1, n_images):
            image = slab.copy()
            image.positions[-1] += [2.86 * t, 0, 0.3 * np.sin(np.pi * t)]
            found.append(_label(image))
    return found


def _said(frames):
    return contradictions(frames, [f"label {i}" for i in range(len(frames))])


@pytest.mark.parametrize("distances", [np.linspace(1.7, 8, n) for n in (12, 20)] + [np.linspace(2.3, 5, 20)])
def test_a_bond_that_breaks_is_no_contradiction(distances):
    assert _said(_dimers(distances)) == []


def test_ways_over_a_crest_are_no_contradiction():
    assert _said(_paths(3, 13)) == []


@pytest.mark.parametrize("frames", [_dimers(np.linspace(2.3, 5, 20)), _paths(3, 13)], ids=["dimers", "paths"])
def test_of_them_too_other_energies_and_turned_forces_are_refused(frames):
    energies = [atoms.get_potential_energy() for atoms in frames]
    forces = [atoms.get_forces() for atoms in frames]
    order = np.random.default_rng(1).permutation(len(frames))
    with pytest.raises(InvalidInputError, match="do not fit the forces of near frames"):
        _said([_with(a, energies[i], f) for a, i, f in zip(frames, order, forces, strict=True)])
    with pytest.raises(InvalidInputError, match="do not fit the forces of near frames"):
        _said(
            [_with(a, e, -f if k % 2 else f) for k, (a, e, f) in enumerate(zip(frames, energies, forces, strict=True))]
        )


def test_the_frames_that_misfit_most_are_named_first():
    frames = _dimers(np.linspace(2.3, 5, 20))
    for place, off in ((4, 1.0), (15, 5.0)):
        frames[place].calc.results["energy"] += off
    (said,) = _said(frames)
    assert "energies of 2 of 20 labels" in said
    assert "(label 15; label 4)" in said


def test_a_step_contradicts_by_what_no_forces_between_would_give():
    falling = Pair(0, 1, 0.106, 0.163, 0.065)  # of a bond that breaks
    assert not falling.contradicts
    assert not falling.is_over_crest
    assert falling._replace(rise_eV=0.3).contradicts
    assert falling._replace(rise_eV=-0.1).contradicts
    crest = Pair(0, 1, 0.0, 0.1, -0.1)
    assert crest.contradicts
    assert crest.is_over_crest
    assert not crest._replace(rise_eV=0.5).is_over_crest
