"""What a trainer is given in the loop: held-out labels stay held out, isolated atoms give the reference energies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker, with_reference_energies
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, read_events, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jobflow import Flow, JobStore

    from mlip_autopipec.schemas.loop import OTFDocument

    Run = Callable[[Flow], OTFDocument]


def potentials(store: JobStore) -> list[PotentialDocument]:
    found = store.query({"output.kind": "potential"}, ["output"], load=True)
    return sorted((PotentialDocument.model_validate(doc["output"]) for doc in found), key=lambda p: p.cycle)


def test_the_test_set_is_that_of_the_first_cycle(run_loop: Run, memory_jobstore: JobStore, tmp_path: Path) -> None:
    events = str(tmp_path / "events.log")
    maker = stand_in_loop(
        events,
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=s) for s in (100, 200, 300)], settings=MDSettings()),
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=4, n_test=2, max_atoms=16)),
    )
    document = run_loop(maker.make(bulk("Cu", cubic=True), 300))
    assert document.n_cycles == 3
    labels = read_labels(document.campaign_id, store=memory_jobstore)
    test = [label for label in labels if label.split == "test"]
    assert len(test) == 2
    assert {label.cycle for label in test} == {0}
    trained = [p.n_train for p in potentials(memory_jobstore)]
    assert trained == [
        sum(label.split == "train" and label.cycle <= cycle for label in labels)
        for cycle in range(document.n_cycles + 1)
    ]
    assert [p.n_test for p in potentials(memory_jobstore)] == [2, 2, 2, 2]
    # what reached the trainer, as it told itself
    assert [e for e in read_events(events) if e.startswith("train")] == [f"train {n}" for n in trained]


def test_given_labels_may_hold_some_out(
    run_loop: Run, memory_jobstore: JobStore, tmp_path: Path, emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]
) -> None:
    frames = StructureGenerator(n_structures=4, n_test=0, max_atoms=16).generate([bulk("Cu", cubic=True)], seed=1)
    labels = emt_labelled(frames)
    for atoms, split in zip(labels, ("train", "test", "train", "train"), strict=True):
        atoms.info["split"] = split
    events = str(tmp_path / "events.log")
    run_loop(stand_in_loop(events).make(bulk("Cu", cubic=True), 300, labels=labels))
    (potential,) = potentials(memory_jobstore)
    assert (potential.n_train, potential.n_test) == (3, 1)
    assert [e for e in read_events(events) if e.startswith("train")] == ["train 3"]


def test_isolated_atoms_give_the_reference_energies(run_loop: Run, memory_jobstore: JobStore) -> None:
    generator = StructureGenerator(n_structures=2, n_test=1, max_atoms=16, isolated_atoms=True)
    maker = stand_in_loop(generate_maker=GenerateMaker(generator=generator))
    document = run_loop(maker.make(bulk("Cu", cubic=True), 300))
    labels = read_labels(document.campaign_id, store=memory_jobstore)
    (atom,) = [label for label in labels if label.split == "reference"]
    (potential,) = potentials(memory_jobstore)
    assert potential.trainer["reference_energies"] == {"Cu": atom.energy_eV}
    assert (potential.n_train, potential.n_test) == (2, 1)


def label(symbols: str, energy: float, split: str) -> LabelDocument:
    atoms = Atoms(symbols, positions=[[0, 0, 2.0 * i] for i in range(len(Atoms(symbols)))], cell=[9, 9, 9], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.positions * 0)
    return LabelDocument.from_labelled(atoms, campaign_id="c", cycle=0, index=0, origin="seed", split=split)


def test_reference_energies_of_all_elements_or_none() -> None:
    labels = [label("Mg", -1.5, "reference"), label("O", -2.5, "reference"), label("MgO", -9.0, "train")]
    trainer = with_reference_energies(LinearACETrainer(), labels, ["O", "Mg"])
    assert trainer.reference_energies == {"Mg": -1.5, "O": -2.5}
    # energies of atoms and fitted energies do not mix
    assert with_reference_energies(LinearACETrainer(), labels[1:], ["O", "Mg"]).reference_energies is None
    own = LinearACETrainer(reference_energies={"Mg": 0.0, "O": 0.0})
    assert with_reference_energies(own, labels, ["O", "Mg"]) is own
    # a pacemaker trainer keeps its sections when it is copied
    user = PacemakerTrainer(input_sections={"fit": {"loss": {"kappa": 0.5}}, "potential": {"elements": ["Mg", "O"]}})
    copied = with_reference_energies(user, labels, ["O", "Mg"])
    assert copied.reference_energies == {"Mg": -1.5, "O": -2.5}
    assert isinstance(copied, PacemakerTrainer)
    assert (copied.input_sections, copied.basis) == (user.input_sections, user.basis)


@pytest.mark.long
def test_a_loop_with_pacemaker_refits_in_the_cycle_it_is_due(run_loop: Run, memory_jobstore: JobStore) -> None:
    # real labels (EMT) and a real pacemaker on its own backend, which starts quickly
    basis = BasisSettings(4, cutoff=3.6, nradmax_by_orders=[3, 1], lmax_by_orders=[0, 1], ndensity=2)
    trainer = PacemakerTrainer(
        basis=basis, maxiter=4, fine_tune_maxiter=2, refit_every=1, input_sections={"backend": {"evaluator": "pyace"}}
    )
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)], displacement_A=0.1),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(trainer=trainer),
    )
    document = run_loop(maker.make(bulk("Cu", cubic=True), 300))
    assert document.n_cycles == 1, document.why
    first, second = potentials(memory_jobstore)
    assert first.fit is not None
    assert 0 < first.fit.n_iterations <= 4
    assert first.fit.end.total < first.fit.start.total
    assert first.refit is None
    assert second.refit is not None
    assert second.fine_tuned is (second.refit.kept == "fine-tune")
    assert second.test == (second.refit.fine_tune if second.fine_tuned else second.refit.refit)
    assert second.parent_id == first.uuid
    assert "Start pacemaker" in second.payload["log"]


def test_wrong_labels_of_the_users_own_are_not_given_to_pacemaker(run_loop: Run, memory_jobstore: JobStore) -> None:
    copper = bulk("Cu", cubic=True) * (2, 2, 1)
    given = []
    for seed in range(14):
        moved = copper.copy()
        moved.rattle(0.07, seed=seed)
        computed = moved.copy()
        computed.calc = EMT()
        energy, forces = computed.get_potential_energy(), computed.get_forces()
        moved.calc = SinglePointCalculator(moved, energy=energy, forces=forces.copy())
        given.append(moved)
    given[3].calc.results["energy"] += 0.1 * len(given[3])
    given[8].calc.results["forces"] *= -1
    basis = BasisSettings(4, cutoff=3.6, nradmax_by_orders=[3, 1], lmax_by_orders=[0, 1])
    trainer = PacemakerTrainer(basis=basis, maxiter=2, input_sections={"backend": {"evaluator": "pyace"}})
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[]),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(trainer=trainer),
    )
    run_loop(maker.make(copper, 300, labels=given, campaign_id="own"))
    (potential,) = potentials(memory_jobstore)
    index = {one.uuid: one.index for one in read_labels("own", store=memory_jobstore, with_outliers=True)}
    assert {index[one.label_id] for one in potential.quarantined} == {3, 8}
    assert potential.n_train == len(given) - 2
    assert potential.trainer["class"] == "PacemakerTrainer"
