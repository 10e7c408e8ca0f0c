"""Rows of labels that are known are read from disk, to the last bit; what is damaged is computed again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from pyace import ACEBBasisSet, create_multispecies_basis_config

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.derivatives import Derivatives
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.potentials.projections import compute_projections, kept_projections
from mlip_autopipec.potentials.row_cache import RowCache
from mlip_autopipec.training.design import build_design
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.training.design import Design


def labels(n: int, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        emt = EMT()
        emt.calculate(atoms)
        stress = emt.get_stress(atoms)
        atoms.calc = SinglePointCalculator(
            atoms, energy=emt.results["energy"], forces=emt.results["forces"], stress=stress
        )
        made.append(atoms)
    return made


def design(frames: list[Atoms], n: int = 12, cutoff: float = 4.5, processes: int = 1) -> Design:
    settings = BasisSettings(number_of_functions_per_element=n, cutoff=cutoff)
    basis = ACEBBasisSet(create_multispecies_basis_config(settings.section(["Cu"])))
    return build_design(basis, frames, {"Cu": 3.0}, processes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "100")
    return tmp_path / "rows"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    """The structures whose rows are computed."""
    seen: list[Atoms] = []
    original = Derivatives.of

    def of(self, atoms):
        seen.append(atoms)
        return original(self, atoms)

    monkeypatch.setattr(Derivatives, "of", of)
    return seen


def same(one: Design, other: Design) -> bool:
    return bool((one.matrix == other.matrix).all() and (one.target == other.target).all())


def test_only_new_labels_are_evaluated_and_nothing_changes(folder, evaluated, monkeypatch) -> None:
    frames = labels(6)
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "0")
    without = design(frames)
    assert not folder.exists()
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "100")
    evaluated.clear()
    design(frames[:4])
    assert len(evaluated) == len(list(folder.iterdir())) == 4
    evaluated.clear()
    assert same(design(frames), without)
    assert len(evaluated) == 2
    evaluated.clear()
    assert same(design(frames), without)
    assert evaluated == []
    # in another order, and by several processes
    assert same(design(frames[::-1], processes=2), design(frames[::-1]))
    assert evaluated == []


def test_rows_that_are_deleted_while_they_are_read_are_computed_again(folder, evaluated, monkeypatch) -> None:
    frames = labels(3)
    first = design(frames)
    evaluated.clear()
    read = RowCache.read

    def read_and_delete_the_next(self, *of):
        found = read(self, *of)
        for path in folder.iterdir():
            path.unlink()
        return found

    monkeypatch.setattr(RowCache, "read", read_and_delete_the_next)
    assert same(design(frames), first)
    assert len(evaluated) == 2


@pytest.mark.parametrize("change", [{"n": 13}, {"cutoff": 4.6}], ids=str)
def test_another_basis_has_rows_of_its_own(folder, evaluated, change) -> None:
    frames = labels(3)
    design(frames)
    evaluated.clear()
    design(frames, **change)
    assert len(evaluated) == 3
    assert len(list(folder.iterdir())) == 6


def test_a_moved_atom_or_cell_is_another_structure(folder, evaluated) -> None:
    frames = labels(2)
    design(frames)
    evaluated.clear()
    for atoms in frames:
        results = atoms.calc.results
        atoms.positions[0, 0] += 1e-12
        atoms.calc = SinglePointCalculator(atoms, **results)
    design(frames)
    assert len(evaluated) == 2


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "swapped", "text"])
def test_damaged_and_wrong_entries_are_computed_again(folder, evaluated, damage) -> None:
    frames = labels(3)
    expected = design(frames)
    first, second, _ = sorted(folder.iterdir())
    content = bytearray(first.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 4
        first.write_bytes(content)
    elif damage == "cut":
        first.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        first.write_bytes(b"")
    elif damage == "swapped":
        shutil.copyfile(second, first)
    else:
        first.write_text("no rows")
    evaluated.clear()
    assert same(design(frames), expected)
    assert len(evaluated) == 1
    evaluated.clear()
    design(frames)
    assert evaluated == [], "what was damaged is mended"


def test_the_folder_is_bounded_and_the_oldest_go_first(folder, evaluated, monkeypatch) -> None:
    design(labels(4, seed=1), n=90)
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "1")
    many = labels(80, seed=2)
    design(many, n=90)
    assert size < 1e6
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1e6
    evaluated.clear()
    design(many[-4:], n=90)
    assert len(evaluated) < 4, "the newest are still there"


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_DIR", str(tmp_path / "file" / "rows"))
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "10")
    frames = labels(3)
    assert same(design(frames), design(frames))


def test_a_training_is_the_same_to_the_last_bit(folder) -> None:
    frames = labels(16)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
    cold, warm = (trainer.train(frames).potential for _ in range(2))
    assert cold.yaml == warm.yaml
    assert cold.sha256 == warm.sha256


def test_projections_that_are_known_are_read_to_the_last_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two elements, one of which a structure lacks; whatever the coefficients of the functions are."""
    settings = BasisSettings(number_of_functions_per_element=12, cutoff=4.5)
    basis = ACEBBasisSet(create_multispecies_basis_config(settings.section(["Au", "Cu"])))
    frames = labels(2)
    frames[1].symbols[:3] = "Au"
    expected = compute_projections(ACEPotential.from_basis(basis), frames)
    first = list(kept_projections(ACEPotential.from_basis(basis), frames))
    basis.basis_coeffs = np.random.default_rng(0).normal(size=len(basis.basis_coeffs))
    potential = ACEPotential.from_basis(basis)
    computed: list[int] = []

    def noting(of, some):
        computed.append(len(some))
        return compute_projections(of, some)

    monkeypatch.setattr("mlip_autopipec.potentials.projections.compute_projections", noting)
    again = list(kept_projections(potential, frames))
    assert computed == []
    for one, two, three in zip(expected, first, again, strict=True):
        for element in ("Au", "Cu"):
            assert one[element].tobytes() == two[element].tobytes() == three[element].tobytes()
    for file in folder.glob("*-projections*"):
        file.write_bytes(file.read_bytes()[:-200])
    assert [one["Cu"].tobytes() for one in kept_projections(potential, frames)] == [
        one["Cu"].tobytes() for one in expected
    ]
    assert computed == [1, 1]
    moved = frames[0].copy()
    moved.positions[0, 0] += 1e-9
    list(kept_projections(potential, [moved]))
    assert computed == [1, 1, 1]


def test_the_folder_is_bounded_while_it_is_filled(folder, monkeypatch) -> None:
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "1")
    sizes = []
    write = RowCache.write

    def measured(self, *of):
        write(self, *of)
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))

    monkeypatch.setattr(RowCache, "write", measured)
    design(labels(80), n=90)
    assert 0.9e6 < max(sizes) < 1.5e6


def test_projections_alone_are_bounded_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "1")
    settings = BasisSettings(number_of_functions_per_element=90, cutoff=4.5)
    basis = ACEBBasisSet(create_multispecies_basis_config(settings.section(["Cu"])))
    frames = [atoms * (4, 1, 1) for atoms in labels(80)]  # 23 kB each
    list(kept_projections(ACEPotential.from_basis(basis), frames))
    assert 0.7e6 < sum(path.stat().st_size for path in folder.iterdir()) < 1.3e6


def test_more_labels_than_there_is_room_for_do_not_push_out_those_to_be_read(folder, evaluated, monkeypatch) -> None:
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "1")
    many = labels(80)
    design(many, n=90)
    kept = len(list(folder.iterdir()))
    assert 10 < kept < 80
    evaluated.clear()
    design(many, n=90)
    assert len(evaluated) == 80 - kept
