"""In the loop: outliers flagged and accepted, grades beside errors, unseen elements."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec import OTFMaker
from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.judging import judge_unexplained
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import CheckDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import SelectionDocument, WalkDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.targets import ENERGY_FLOOR_MEV_ATOM, RELATIVE

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)
TRAINER = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))


def loop(halts, wrong=(), **fields):
    """EMT labels, some of them wrong, and a linear ACE, both real, in MD by a script."""
    generator = StructureGenerator(n_structures=12, n_test=1, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    return stand_in_loop(
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=ScriptedDynamicsMaker(halts=list(halts), displacement_A=0.05),
        oracle_maker=StandInOracleMaker(physics="emt", wrong=list(wrong)),
        train_maker=TrainMaker(trainer=TRAINER),
        **fields,
    )


def test_a_wrong_label_is_set_aside_until_it_is_let_in(run_loop, stored_documents, memory_jobstore):
    maker = loop([Halt(step=100), Halt(step=200)], ["label c001 001"])
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert final.status == "CONVERGED"
    every = read_labels("c", store=memory_jobstore, with_outliers=True)
    (wrong,) = [label for label in every if (label.cycle, label.index) == (1, 1)]
    campaigns = Campaigns(memory_jobstore)
    aside = campaigns.outliers("c")
    assert list(aside) == [wrong.uuid]
    assert "eV/atom off what the potential expects" in aside[wrong.uuid][0]
    potentials = stored_documents(PotentialDocument)
    assert [len(p.quarantined) for p in potentials] == [0, 1, 0]
    n_first = potentials[0].n_train
    assert [p.n_train for p in potentials] == [n_first, n_first + 3, n_first + 7]
    assert wrong.uuid not in {label.uuid for label in read_labels("c", store=memory_jobstore)}
    assert wrong.uuid not in {label.uuid for label in campaigns.trained_on(potentials[1].uuid)}
    assert potentials[-1].train.energy_rmse_meV_atom < 20

    with pytest.raises(InvalidInputError, match="is no flagged outlier"):
        campaigns.accept("c", "unknown")
    with pytest.raises(InvalidInputError, match="nothing is left to do"):
        OTFMaker.extend("c", memory_jobstore)
    campaigns.accept("c", wrong.uuid, "I know better")
    assert campaigns.outliers("c") == {}
    extended = run_loop(OTFMaker.extend("c", memory_jobstore))
    last = stored_documents(PotentialDocument)[-1]
    assert (extended.status, extended.potential_id) == ("CONVERGED", last.uuid)
    assert (last.let_in, last.quarantined) == ([wrong.uuid], [])
    assert last.n_train == n_first + 8
    assert last.new_before.n_structures == 1
    assert last.train.energy_rmse_meV_atom > 100, "the user wanted it"
    assert [w.replica for w in extended.walkers] == [1]
    with pytest.raises(InvalidInputError, match="nothing is left to do"):
        OTFMaker.extend("c", memory_jobstore)


def test_a_cycle_of_nothing_but_wrong_labels_stalls(run_loop, memory_jobstore):
    final = run_loop(loop([Halt(step=100)], ["label c001"]).make(COPPER, 300, campaign_id="c"))
    assert (final.status, final.n_cycles) == ("STALLED", 1)
    assert "all 4 labels of cycle 1 are flagged as outliers" in final.why
    for label in Campaigns(memory_jobstore).outliers("c"):
        Campaigns(memory_jobstore).accept("c", label)
    extended = run_loop(OTFMaker.extend("c", memory_jobstore))
    assert extended.status == "CONVERGED"
    assert extended.walkers[0].n_halts == 1, "it went on where it had halted"


def test_all_labels_are_trusted_on_request(run_loop, stored_documents):
    maker = loop([Halt(step=100)], ["label c001 001"])
    maker.train_maker.outliers = None
    final = run_loop(maker.make(COPPER, 300))
    assert final.status == "CONVERGED"
    assert stored_documents(PotentialDocument)[-1].train.energy_rmse_meV_atom > 100


def test_each_new_label_stores_its_grade_and_error(run_loop, stored_documents, memory_jobstore):
    halts = [Halt(step=100), Halt(step=200)]
    run_loop(loop(halts).make(COPPER, 300, campaign_id="c"))
    first, *others = stored_documents(PotentialDocument)
    assert first.graded == []
    labels = {label.uuid: label for label in read_labels("c", store=memory_jobstore)}
    before = first
    for potential in others:
        assert len(potential.graded) == 4
        for pair in potential.graded:
            atoms, parent = labels[pair.label_id].to_atoms(), before.to_potential()
            assert pair.gamma_max == pytest.approx(compute_gamma(parent, atoms).max())
        worst = max(pair.force_error_max_eV_A for pair in potential.graded)
        assert 1e3 * worst >= potential.new_before.forces_max_meV_A
        before = potential
    found = Campaigns(memory_jobstore).calibration("c", wished_error_eV_A=0.2)
    assert found.n_labels == 8
    assert found.spearman is not None


def test_thresholds_follow_the_calibration_of_gamma(run_loop, monkeypatch):
    seen = []
    original = ScriptedDynamicsMaker.explore

    def explore(self, *args):
        seen.append((self.settings.gamma_lo, self.settings.gamma_hi))
        return original(self, *args)

    monkeypatch.setattr(ScriptedDynamicsMaker, "explore", explore)
    halts = [Halt(step=s) for s in (100, 200, 300)]
    strict = run_loop(loop(halts, threshold_adapter=ThresholdAdapter(wished_error=1e-6)).make(COPPER, 300))
    # four labels say nothing, eight do
    assert seen[:3] == [(2, 10)] * 3
    assert seen[3] == pytest.approx((2 / 1.5, 10 / 1.5))
    assert strict.gamma_thresholds[1] < seen[3][1]


def test_thresholds_keep_below_the_grade_of_an_explosion(run_loop):
    maker = loop([Halt(step=100), Halt(step=200)], threshold_adapter=ThresholdAdapter(wished_error=1e3))
    maker.dynamics_maker.settings = replace(maker.dynamics_maker.settings, gamma_explosion=11)
    final = run_loop(maker.make(COPPER, 300))
    assert final.status == "CONVERGED"
    assert final.gamma_thresholds[1] <= 11


def test_an_impurity_halts_before_md_and_is_labelled_first(run_loop, stored_documents):
    """The loop was begun with copper and gold apart; in its second structure they meet."""
    apart = [bulk("Cu", cubic=True) * (2, 2, 2), bulk("Au", cubic=True) * (2, 2, 2)]
    generator = StructureGenerator(n_structures=12, n_test=0, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    labels = generator.generate(apart, seed=0)
    labels = [a for a in labels if len(set(a.symbols)) == 1 and len(a) > 1]
    oracle = StandInOracleMaker(physics="emt")
    given = [oracle.compute(a).atoms for a in labels]
    trained = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5)).train(given)
    # as pace_activeset makes it, gamma does not see unseen elements
    impure = bulk("Cu", cubic=True) * (3, 3, 3)
    impure.symbols[0] = "Au"
    maker = OTFMaker(
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=50), engine="library"),
        propose_maker=ProposeMaker(),
        select_maker=SelectMaker(n_max=2),
        oracle_maker=oracle,
        train_maker=TrainMaker(trainer=TRAINER),
        stop_rule=StopRule(max_cycles=1, n_check_labels=0),
    )
    run_loop(maker.make(impure, 300, labels=given, initial_potential=trained.potential))
    walk = stored_documents(WalkDocument)[0]
    assert (walk.status, walk.reason, walk.verdict, walk.step) == ("HALTED", "unseen", "novelty", 0)
    assert walk.seconds == 0
    assert len(stored_documents(SelectionDocument)[0].choices) >= 1
    last = stored_documents(PotentialDocument)[-1]
    assert set(last.coverage["pairs"]) == {"Au-Au", "Au-Cu", "Cu-Au", "Cu-Cu"}
    assert last.known_surroundings().unseen(impure) == []


def own_labels():
    generator = StructureGenerator(n_structures=16, n_test=0, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    oracle = StandInOracleMaker(physics="emt")
    return [oracle.compute(atoms).atoms for atoms in generator.generate([COPPER], seed=0)]


def test_wrong_labels_of_the_users_own_are_named_and_not_trained_on(
    run_loop, stored_documents, memory_jobstore, caplog
):
    given = own_labels()
    given[5].calc.results["energy"] += 0.1 * len(given[5])
    given[9].calc.results["forces"] *= -1
    given[2].calc.results["forces"][7, 1] += 2.0
    given[2].calc.results["forces"][:, 1] -= 2.0 / len(given[2])  # what does not add up is refused at the door
    run_loop(loop([]).make(COPPER, 300, labels=given, campaign_id="own"))
    campaigns = Campaigns(memory_jobstore)
    aside = campaigns.outliers("own")
    index = {label.uuid: label.index for label in read_labels("own", store=memory_jobstore, with_outliers=True)}
    assert {index[uuid] for uuid in aside} == {2, 5, 9}
    reasons = {index[uuid]: why for uuid, why in aside.items()}
    assert re.search(r"energy is \+0\.(09|1)", reasons[5][0])
    assert "forces are" in reasons[9][0]
    assert "a component of its forces is" in reasons[2][0]
    assert "label 5 of the dataset (Cu32) is flagged as an outlier" in caplog.text
    (potential, *_) = stored_documents(PotentialDocument)
    assert potential.n_train == len(given) - 3
    assert potential.train.energy_rmse_meV_atom < 10
    # who knows better accepts them, and the next training has them
    for uuid in aside:
        campaigns.accept("own", uuid)
    run_loop(OTFMaker.extend("own", memory_jobstore, conditions=600))
    assert campaigns.outliers("own") == {}
    assert max(p.n_train for p in stored_documents(PotentialDocument)) >= len(given)


def test_a_wrong_label_of_the_users_own_stays_out_of_later_trainings_and_of_the_limit(
    run_loop, stored_documents, memory_jobstore
):
    given = own_labels()
    given[5].calc.results["energy"] += 3.0
    maker = loop([Halt(step=100), Halt(step=200)], check=True)
    run_loop(maker.make(COPPER, 300, labels=given, campaign_id="own"))
    (aside,) = Campaigns(memory_jobstore).outliers("own")
    potentials = sorted(stored_documents(PotentialDocument), key=lambda potential: potential.cycle)
    assert len(potentials) > 1
    bought = [label.uuid for label in read_labels("own", store=memory_jobstore) if label.origin != "given"]
    assert potentials[-1].n_train <= len(given) - 1 + len(bought)
    assert potentials[-1].train.energy_rmse_meV_atom < 5
    assert aside not in {label.uuid for label in read_labels("own", store=memory_jobstore)}
    (check, *_) = stored_documents(CheckDocument)
    labels = [label.to_atoms() for label in read_labels("own", store=memory_jobstore) if label.split != "reference"]
    spread = 1e3 * np.std([atoms.calc.results["energy"] / len(atoms) for atoms in labels])
    assert check.energy_limit_meV_atom <= max(1.1 * RELATIVE * spread, ENERGY_FLOOR_MEV_ATOM)


MORE = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20, cutoff=4.5))


@pytest.mark.parametrize("wrong", ["order of atoms", "sign"])
def test_forces_that_belong_to_other_atoms_are_named_where_half_of_the_labels_have_them(
    run_loop, memory_jobstore, caplog, wrong
):
    """None of so many stands out from the others, but a fit leaves more of their forces than there is."""
    given = own_labels()
    for atoms in given[::2]:
        forces = atoms.calc.results["forces"]
        atoms.calc.results["forces"] = -forces if wrong == "sign" else forces[::-1].copy()
    maker = loop([])
    maker.train_maker = TrainMaker(trainer=MORE)
    run_loop(maker.make(COPPER, 300, labels=given, campaign_id="own"))
    aside = Campaigns(memory_jobstore).outliers("own")
    index = {label.uuid: label.index for label in read_labels("own", store=memory_jobstore, with_outliers=True)}
    # the first one is a crystal without forces, and those of the third are small
    assert set(range(4, 16, 2)) <= {index[uuid] for uuid in aside} <= set(range(2, 16, 2))
    assert "of its forces, and" in caplog.text


def test_a_dataset_whose_forces_belong_to_other_structures_is_refused(run_loop, stored_documents, memory_jobstore):
    given = own_labels()[1:]
    forces = [atoms.calc.results["forces"] for atoms in given]
    for atoms, other in zip(given, forces[1:] + forces[:1], strict=True):
        atoms.calc.results["forces"] = other
    maker = loop([])
    maker.train_maker = TrainMaker(trainer=MORE)
    final = run_loop(maker.make(COPPER, 300, labels=given, campaign_id="own"))
    assert final.status == "FAILED"
    assert not stored_documents(PotentialDocument)
    labels = read_labels("own", store=memory_jobstore)
    potential = MORE.train([label.to_atoms() for label in labels]).potential
    with pytest.raises(InvalidInputError, match="the forces of the dataset are not those of its structures"):
        judge_unexplained(potential, labels, [])


class OtherTrainer(LinearACETrainer):
    """Stands for trainers whose fits judge no labels, such as that of pacemaker."""

    judges_labels = False

    def fit(self, task):
        return super().fit(task)._replace(linear=None)


def test_wrong_labels_are_named_whatever_the_trainer(run_loop, stored_documents, memory_jobstore):
    given = own_labels()
    given[5].calc.results["energy"] += 0.1 * len(given[5])
    given[9].calc.results["forces"] *= -1
    maker = loop([])
    maker.train_maker = TrainMaker(trainer=OtherTrainer(basis=TRAINER.basis))
    run_loop(maker.make(COPPER, 300, labels=given, campaign_id="own"))
    aside = Campaigns(memory_jobstore).outliers("own")
    index = {label.uuid: label.index for label in read_labels("own", store=memory_jobstore, with_outliers=True)}
    assert {index[uuid] for uuid in aside} == {5, 9}
    assert stored_documents(PotentialDocument)[0].n_train == len(given) - 2


def test_labels_given_with_a_potential_are_judged_as_well(run_loop, stored_documents, memory_jobstore):
    given = own_labels()
    potential = TRAINER.train(given).potential
    given[5].calc.results["energy"] += 0.1 * len(given[5])
    maker = loop([Halt(step=100)])
    run_loop(maker.make(COPPER, 300, labels=given, initial_potential=potential, campaign_id="own"))
    (aside,) = Campaigns(memory_jobstore).outliers("own")
    index = {label.uuid: label.index for label in read_labels("own", store=memory_jobstore, with_outliers=True)}
    assert index[aside] == 5


def test_sound_labels_of_the_users_own_are_all_trained_on(run_loop, stored_documents, memory_jobstore):
    given = own_labels()
    run_loop(loop([]).make(COPPER, 300, labels=given, campaign_id="own"))
    assert Campaigns(memory_jobstore).outliers("own") == {}
    assert stored_documents(PotentialDocument)[0].n_train == len(given)
