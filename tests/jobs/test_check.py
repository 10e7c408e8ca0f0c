"""Halt-free MD is not believed until labels from it, which were not trained on, agree with the potential."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Job, run_locally

from mlip_autopipec import AccuracyTargets, Campaigns, OTFMaker
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.asked import exceeded_left_out
from mlip_autopipec.jobs.assess import update_state
from mlip_autopipec.jobs.check import _apart
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import CheckDocument, LoopState, LoopStatus, OTFDocument
from mlip_autopipec.schemas.measured import errors_by_set
from mlip_autopipec.schemas.potential import LeftOutErrors, PotentialDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.confidence import bound_factor

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)
STRICT = {"max_relative_force_error": 1e-9, "force_error_floor_meV_A": 1e-9}


def forces_limit(check, potential):
    """What the rule says of forces."""
    most = 0.15 * check.forces_rms_meV_A
    return max(20, min(most, max(most / 3, 2 * potential.train.forces_rmse_meV_A)))


def loop(halts=(), rule_class=StopRule, **rule):
    """EMT labels and a linear ACE, both real, in MD by a script."""
    generator = StructureGenerator(n_structures=5, n_test=1, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    return stand_in_loop(
        check=True,
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=ScriptedDynamicsMaker(halts=list(halts), displacement_A=0.08),
        oracle_maker=StandInOracleMaker(physics="emt"),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
        stop_rule=rule_class(**rule),
    )


def test_a_good_potential_passes(run_loop, stored_documents, memory_jobstore):
    final = run_loop(loop([Halt(step=100)]).make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "CONVERGED"
    assert final.check is not None
    assert final.check.passed
    assert final.check.errors.n_structures == 2
    assert f"{final.check.errors.forces_rmse_meV_A:.1f} meV/A on 2 frame(s) of halt-free MD" in final.why
    energy = final.check.errors.energy_rmse_meV_atom
    assert f"energy {energy:.2f} meV/atom (up to {bound_factor(2, 0.9) * energy:.2f} with 90% confidence)" in final.why
    of_many = final.check.errors.model_copy(update={"n_structures": 4})
    assert "confidence" not in final.check.model_copy(update={"errors": of_many}).describe()
    assert final.n_cycles == 4, "walkers that had halted run from their start; the check and its labels take two"
    labels = read_labels("c", store=memory_jobstore)
    assert [label.origin for label in labels if label.split == "check"] == ["check", "check"]
    checked, delivered = stored_documents(PotentialDocument)[-2:]
    assert final.check.potential_id == checked.uuid
    assert final.check.limit_meV_A == pytest.approx(forces_limit(final.check, checked))
    assert checked.n_train == len([label for label in labels if label.split == "train"])
    assert delivered.uuid == final.potential_id == final.check.delivered_id
    assert delivered.n_train == checked.n_train + 2


def test_labels_of_a_passed_check_are_learnt_and_tell_their_errors_left_out(
    run_loop, stored_documents, memory_jobstore
):
    final = run_loop(loop().make(COPPER, [300, 600], campaign_id="c"))
    delivered = stored_documents(PotentialDocument)[-1]
    assert final.potential_id == delivered.uuid
    known = final.check.learnt
    assert known == delivered.new_left_out
    assert f"fitted to these labels as well: {known.describe()} on each of them left out" in final.why
    assert "with the potential of the check" in final.why
    assert final.check.describe_learnt() in final.line()
    checked = [label.uuid for label in read_labels("c", store=memory_jobstore) if label.split == "check"]
    errors = np.array([delivered.payload["left_out"][uuid] for uuid in checked], dtype=float)
    assert errors.shape == (2, 3)
    root_mean_squares = (known.energy_rmse_meV_atom, known.forces_rmse_meV_A, known.stress_rmse_GPa)
    assert np.sqrt(np.mean(errors**2, axis=0)) == pytest.approx(root_mean_squares)


def test_a_potential_that_fails_on_what_it_learns_last_is_not_delivered(
    run_loop, stored_documents, memory_jobstore, monkeypatch
):
    bad = LeftOutErrors(n_structures=2, energy_rmse_meV_atom=0.1, forces_rmse_meV_A=1e4, stress_rmse_GPa=0.1)
    monkeypatch.setattr("mlip_autopipec.jobs.train._left_out", lambda *_: bad)
    final = run_loop(loop().make(COPPER, [300, 600], campaign_id="c"))
    checked, refused = stored_documents(PotentialDocument)[-2:]
    assert final.status == "CONVERGED"
    assert final.check.passed
    assert (final.potential_id, final.potential.uuid) == (checked.uuid, checked.uuid)
    assert final.check.potential_id == checked.uuid != refused.uuid
    assert Campaigns(memory_jobstore).potential("c").uuid == checked.uuid
    assert "its labels are not learnt" in final.why
    assert "with the final potential" in final.why


def test_a_training_that_fails_on_them_costs_nothing(run_loop, stored_documents, monkeypatch):
    train = LinearACETrainer.train

    def failing(self, labels, initial_potential=None, fine_tune=False, **kwargs):
        if fine_tune:
            raise TrainingError("no fit today")
        return train(self, labels, initial_potential, fine_tune, **kwargs)

    monkeypatch.setattr(LinearACETrainer, "train", failing)
    final = run_loop(loop().make(COPPER, [300, 600], campaign_id="c"))
    (checked,) = stored_documents(PotentialDocument)
    assert final.status == "CONVERGED"
    assert final.potential_id == final.potential.uuid == checked.uuid


def test_labels_of_a_check_are_held_out_if_asked_for(run_loop, stored_documents):
    final = run_loop(loop(learn_check=False).make(COPPER, [300, 600], campaign_id="c"))
    (checked,) = stored_documents(PotentialDocument)
    assert final.status == "CONVERGED"
    assert (final.potential_id, final.check.learnt) == (checked.uuid, None)


def test_a_bad_potential_learns_and_all_walkers_begin_anew(run_loop, stored_documents):
    final = run_loop(loop(max_cycles=4, **STRICT).make(COPPER, [300, 600], campaign_id="c"))
    assert (final.status, final.n_cycles) == ("MAX_ITER_REACHED", 4)
    checks = stored_documents(CheckDocument)
    assert [check.passed for check in checks] == [False, False]
    assert [check.cycle for check in checks] == [1, 3]
    assert "4 cycles done, all 2 walkers completed without a halt, unchecked since the last check failed" in final.why
    assert "forces " in final.why
    potentials = stored_documents(PotentialDocument)
    assert [p.cycle for p in potentials] == [0, 2, 4]
    assert [p.n_train for p in potentials] == [potentials[0].n_train + n for n in (0, 2, 4)]
    assert potentials[1].new_before is not None
    assert potentials[1].new_before.forces_rmse_meV_A == pytest.approx(checks[0].errors.forces_rmse_meV_A)
    lines = {document.cycle: document.line() for document in stored_documents(OTFDocument)}
    assert ["even after training on it: try a larger basis" in lines[c] for c in range(5)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    walks = stored_documents(WalkDocument)
    seeds = {(walk.walker, walk.cycle): walk.seed for walk in walks}
    assert sorted(seeds) == [(w, c) for w in (0, 1) for c in (0, 2, 4)]
    assert len(set(seeds.values())) == 6
    assert all(walk.start_step == 0 for walk in walks)


def test_no_labels_left_for_a_check(run_loop):
    n_first = run_loop(loop(n_check_labels=0).make(COPPER, 300, campaign_id="a")).n_labels
    final = run_loop(loop(max_labels=n_first).make(COPPER, 300, campaign_id="b"))
    assert final.status == "BUDGET_SPENT"
    assert "completed without a halt, unchecked" in final.why
    assert final.n_labels == n_first


def test_wall_time_is_a_budget(run_loop):
    final = run_loop(loop([Halt(step=100)], max_hours=1e-6).make(COPPER, 300))
    assert (final.status, final.n_cycles) == ("BUDGET_SPENT", 0)
    assert "h spent" in final.why


@dataclass
class ThreeTimes(StopRule):
    """Believes the third clean run of every walker."""

    def judge(self, state):
        status, why = super().judge(state)
        if status == "CONVERGED" and any(walker.replica < 2 for walker in state.walkers):
            return LoopStatus.LEARNING, f"once more: {why}"
        return status, why


def test_a_rule_that_asks_for_more_makes_walkers_begin_anew(run_loop, stored_documents):
    final = run_loop(loop(rule_class=ThreeTimes, max_cycles=8).make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "CONVERGED"
    seeds = {(walk.walker, walk.seed) for walk in stored_documents(WalkDocument)}
    assert len(seeds) == len(stored_documents(WalkDocument)) == 2 * 3
    assert final.n_cycles < 8


@pytest.mark.parametrize(
    "change",
    [
        {"max_hours": 0},
        {"n_check_labels": -1},
        {"confidence": 1.0},
        {"confidence": 0.2},
        {"max_relative_force_error": 0.0},
    ],
)
def test_what_cannot_be_meant(change):
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        loop(**change).make(COPPER, 300)


@pytest.mark.parametrize(
    "rule",
    [pytest.param({}, id="passes"), pytest.param({"max_cycles": 3, **STRICT}, id="fails", marks=pytest.mark.long)],
)
def test_broken_off_in_a_check_it_ends_the_same(run_loop, memory_jobstore, monkeypatch, rule):
    expected = run_loop(loop(**rule).make(COPPER, 300, campaign_id="whole"))
    wanted = [label.key for label in read_labels("whole", store=memory_jobstore)]
    names = ("propose check c001", "label c001 000", "count labels c001", "check c001", "assess c001", "train c002")
    for name in names:
        original = Job.run

        def run(self, *args, name=name, original=original, **kwargs):
            if self.name == name or self.name == name.replace("label", "reuse"):
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Job, "run", run)
            with pytest.raises(KeyboardInterrupt):
                run_locally(loop(**rule).make(COPPER, 300, campaign_id=name), store=memory_jobstore, log=False)
        final = run_loop(OTFMaker.resume(name, memory_jobstore))
        assert (final.status, final.n_cycles, final.n_labels) == (expected.status, expected.n_cycles, expected.n_labels)
        assert [label.key for label in read_labels(name, store=memory_jobstore)] == wanted


def test_an_extension_goes_on_from_what_was_delivered(run_loop, memory_jobstore, stored_documents):
    first = run_loop(loop().make(COPPER, 300, campaign_id="c"))
    run_loop(OTFMaker.extend("c", memory_jobstore, conditions=600))
    later = [walk for walk in stored_documents(WalkDocument) if walk.cycle > first.n_cycles]
    assert {walk.walker for walk in later if walk.potential_id == first.check.delivered_id} == {0, 1}


def test_an_extension_is_checked_again(run_loop, memory_jobstore, stored_documents):
    run_loop(loop().make(COPPER, 300, campaign_id="c"))
    final = run_loop(OTFMaker.extend("c", memory_jobstore, conditions=600))
    assert final.status == "CONVERGED"
    assert len(stored_documents(CheckDocument)) == 2
    assert isinstance(final, OTFDocument)


def test_only_the_core_of_a_cutout_is_measured(run_loop, stored_documents):
    """Labels come back with their atoms in another order, as VASP's do."""

    class Shuffling(StandInOracleMaker):
        def compute(self, atoms):
            found = super().compute(atoms)
            order = np.random.default_rng(len(atoms)).permutation(len(atoms))
            shuffled = found.atoms[order]
            results = found.atoms.calc.results
            shuffled.calc = SinglePointCalculator(shuffled, energy=results["energy"], forces=results["forces"][order])
            return replace(found, atoms=shuffled)

    maker = loop(n_check_labels=1)
    maker.oracle_maker = Shuffling(physics="emt")
    maker.propose_maker.cutouts = CutoutGenerator(max_atoms=80, gamma_min=0.1)
    maker.dynamics_maker = ScriptedDynamicsMaker(displacement_A=0.08)
    final = run_loop(maker.make(bulk("Cu", cubic=True) * (4, 4, 4), 300, campaign_id="c"))
    (check,) = stored_documents(CheckDocument)
    proposal = [p for p in stored_documents(ProposalDocument) if p.cycle == check.cycle][-1]
    (asked,) = proposal.candidates()
    n_core = asked.info["n_core"]
    assert 0 < n_core < len(asked) <= 80
    assert check.errors.n_atoms == n_core
    reference = asked.copy()
    reference.calc = EMT()
    rms = 1e3 * np.sqrt(np.mean(reference.get_forces()[:n_core] ** 2))
    assert check.forces_rms_meV_A == pytest.approx(rms)
    assert final.check is not None


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"energy_meV_atom": 1e-4}, "energy"),
        ({"stress_GPa": 1e-4}, "stress"),
        ({"forces_meV_A": 1e-2}, "meV/A on 2 frame"),
    ],
)
def test_each_kind_of_error_can_keep_a_potential_from_converging(run_loop, stored_documents, targets, said):
    final = run_loop(loop(max_cycles=2, accuracy=AccuracyTargets(**targets)).make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "MAX_ITER_REACHED"
    check = stored_documents(CheckDocument)[0]
    assert not check.passed
    assert check.teaches
    assert said in check.describe()
    assert check.errors.stress_rmse_GPa > 0


def test_errors_of_labels_left_out_of_the_fit_have_to_be_within_what_is_asked_for(run_loop, stored_documents):
    maker = loop(max_cycles=1)
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="free"))
    assert final.status == "CONVERGED", "nothing is asked for"
    (potential,) = (one for one in stored_documents(PotentialDocument) if one.uuid == final.check.potential_id)
    between = (potential.linear.forces_left_out_meV_A + final.check.errors.forces_rmse_meV_A) / 2
    assert final.check.errors.forces_rmse_meV_A < between, "the check alone would pass"
    asked = AccuracyTargets(forces_meV_A=between)
    final = run_loop(loop(max_cycles=1, accuracy=asked).make(COPPER, [300, 600], campaign_id="asked"))
    assert final.status == "MAX_ITER_REACHED"
    assert not final.check.passed
    assert final.check.teaches
    told = f"forces of labels left out of the fit {potential.linear.forces_left_out_meV_A:.3g} meV/A, asked for"
    assert told in final.check.describe()
    assert "more labels or a larger basis would help" in final.check.describe()


def test_frames_close_in_time_are_checked_once():
    frames = []
    for step in (100, 140, 400, 420, 950):
        frame = COPPER.copy()
        frame.info["step"] = step
        frames.append(frame)
    payload = {"frames": pack_frames(frames)}
    walk = WalkDocument(walker=0, status="CONVERGED", step=1000, timestep_fs=1.0, payload=payload)
    assert [frame.info["step"] for frame in _apart(walk)] == [140, 420]


def test_frames_of_low_gamma_are_checked_too():
    def frame(step):
        atoms = COPPER.copy()
        atoms.info["step"] = step
        return atoms

    payload = {"frames": pack_frames([frame(410)]), "spread": pack_frames([frame(s) for s in (200, 400, 600, 990)])}
    walk = WalkDocument(walker=0, status="CONVERGED", step=1000, timestep_fs=1.0, payload=payload)
    assert [one.info["step"] for one in _apart(walk)] == [200, 400, 600]


@dataclass
class SpreadOut(ScriptedDynamicsMaker):
    """Each run keeps frames on its way."""

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        rng = np.random.default_rng(walker.seed)
        for step in (0, 300, 600, 900):
            result.spread.append(result.final.copy())
            result.spread[-1].positions += rng.normal(scale=0.05, size=(len(atoms), 3))
            result.spread[-1].info["step"] = step
        return result


def test_the_more_checks_have_failed_the_more_frames_the_next_one_takes(run_loop, stored_documents):
    maker = loop(max_cycles=8, max_not_learnt=9, **STRICT)
    maker.dynamics_maker = SpreadOut(settings=replace(maker.dynamics_maker.settings, n_steps=1200), displacement_A=0.08)
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    checks = stored_documents(CheckDocument)
    assert [(check.errors.n_structures, check.n_failed_before) for check in checks] == [(2, 0), (4, 1), (6, 2), (6, 3)]
    assert final.n_labels == 6 + 2 + 4 + 6 + 6


def test_no_walker_goes_unchecked(run_loop, stored_documents):
    run_loop(loop(n_check_labels=1).make(COPPER, [300, 400, 500], campaign_id="c"))
    assert stored_documents(CheckDocument)[0].errors.n_structures == 3


@dataclass
class Frozen(ScriptedDynamicsMaker):
    """Atoms that do not move, whatever the temperature asked for."""

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        result.final.positions = COPPER.positions
        return result


def test_frames_that_hardly_move_prove_nothing(run_loop):
    maker = loop()
    maker.dynamics_maker = Frozen(halts=[])
    final = run_loop(maker.make(COPPER, [300], campaign_id="c"))
    assert final.status == "STALLED"
    assert "the atoms hardly move" in final.why


def test_a_bound_and_not_the_error_itself_has_to_be_within_what_is_asked_for(run_loop, stored_documents):
    free = run_loop(loop().make(COPPER, [300, 600], campaign_id="free")).check
    assert free.passed
    assert (free.confidence, free.bound_factors) == (None, (1.0, 1.0, 1.0)), "nothing is asked for"
    worst = max(one.errors.energy_rmse_meV_atom for one in free.by_walker)
    # every walker is within, and so is what was measured
    (trained,) = [p for p in stored_documents(PotentialDocument) if p.uuid == free.potential_id]
    asked = AccuracyTargets(energy_meV_atom=max(1.2 * worst, 1.01 * trained.train.energy_rmse_meV_atom))
    strict = run_loop(loop(max_cycles=1, accuracy=asked).make(COPPER, [300, 600], campaign_id="strict")).check
    assert strict.errors.energy_rmse_meV_atom == pytest.approx(free.errors.energy_rmse_meV_atom)
    assert not strict.passed
    assert strict.teaches
    told = strict.describe()
    assert "with 90% confidence), largest on w" in told
    assert "energy: 2 frame(s) are few for this confidence: a larger stop.n_check_labels would help up to 5" in told
    assert "true errors are within" not in told
    asked = replace(asked, forces_meV_A=1e4)
    loose = loop(max_cycles=1, accuracy=asked, confidence=0.5).make(COPPER, [300, 600], campaign_id="loose")
    passed = run_loop(loose).check
    assert passed.left_out_exceeded or passed.passed
    assert not passed.exceeded_kinds
    told = "true errors are within what is asked for with 50% confidence"
    assert (told in passed.describe()) == passed.passed
    assert told in passed.model_copy(update={"passed": True}).describe()


def test_with_targets_more_frames_are_asked_for():
    assert StopRule().n_frames == 2
    assert StopRule(accuracy=AccuracyTargets()).n_frames == 2
    assert StopRule(accuracy=AccuracyTargets(forces_meV_A=100)).n_frames == 4
    assert StopRule(accuracy=AccuracyTargets(forces_meV_A=100), confidence=0.6).n_frames == 2
    assert StopRule(accuracy=AccuracyTargets(forces_meV_A=100), n_check_labels=0).n_frames == 0


def test_a_loop_that_ends_with_a_failed_check_says_so_and_can_be_extended(run_loop, stored_documents, memory_jobstore):
    maker = loop(max_cycles=1, **STRICT)
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert final.status == "MAX_ITER_REACHED"
    assert final.why.startswith("1 cycles done, all 1 walkers completed without a halt, and the last check failed: ")
    assert "forces " in final.why
    assert [walker.status for walker in final.walkers] == ["CONVERGED"]
    assert "labels left out" in errors_by_set(final), "of the potential that was checked"
    maker.stop_rule = replace(maker.stop_rule, max_cycles=2)
    again = run_loop(OTFMaker.extend("c", memory_jobstore, maker=maker))
    assert (again.n_cycles, [walker.replica for walker in again.walkers]) == (2, [1])
    first, second = (walk for walk in stored_documents(WalkDocument))
    assert first.seed != second.seed
    assert second.start_step == 0


@dataclass
class EnergiesOff(StandInOracleMaker):
    """Energies of frames of MD are off by 30 meV/atom, forces are right."""

    def compute(self, atoms):
        found = super().compute(atoms)
        if len(atoms) == len(COPPER) and found.atoms is not None:
            results = dict(found.atoms.calc.results)
            results["energy"] += 0.03 * len(atoms) * np.sign(found.atoms.positions[0, 0] % 0.02 - 0.01)
            found.atoms.calc = SinglePointCalculator(found.atoms, **results)
        return found


def test_good_forces_and_bad_energies_are_refused(run_loop, stored_documents):
    maker = loop(max_cycles=1)
    maker.oracle_maker = EnergiesOff(physics="emt")
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    assert final.status != "CONVERGED"
    (check,) = stored_documents(CheckDocument)
    assert list(check.exceeded_kinds) == ["energy"]
    assert check.errors.forces_rmse_meV_A < check.limit_meV_A
    error, limit = check.errors.energy_rmse_meV_atom, check.energy_limit_meV_atom
    assert f"energy {error:.3g} meV/atom, limit {limit:.3g}, largest on w" in final.check.describe()
    assert final.check.describe().count("meV/atom, limit") == 1, "told once"
    assert "would help" in final.check.describe()


@dataclass
class OneWalkerStill(ScriptedDynamicsMaker):
    """The atoms of walker 1 do not move."""

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        if walker.index == 1:
            result.final.positions = COPPER.positions
        return result


def test_one_walker_that_hardly_moves_is_named(run_loop):
    maker = loop()
    maker.dynamics_maker = OneWalkerStill(halts=[], displacement_A=0.08)
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "STALLED"
    assert "the atoms hardly move in MD of w1 600 K (root mean square force" in final.why


def test_frames_that_prove_nothing_claim_nothing(run_loop, stored_documents):
    maker = loop(accuracy=AccuracyTargets(energy_meV_atom=1000.0))
    maker.dynamics_maker = OneWalkerStill(halts=[], displacement_A=0.08)
    run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    (check,) = stored_documents(CheckDocument)
    assert not check.passed
    assert "true errors are within" not in check.describe()
    assert "the atoms hardly move in MD of w1 600 K" in check.describe()
    unchecked = check.model_copy(update={"is_still": False, "unchecked": ["w1 600 K"]})
    assert "true errors are within" not in unchecked.describe()


@dataclass
class WithoutStress(StandInOracleMaker):
    """Energies and forces only."""

    def compute(self, atoms):
        found = super().compute(atoms)
        results = {name: found.atoms.calc.results[name] for name in ("energy", "forces")}
        found.atoms.calc = SinglePointCalculator(found.atoms, **results)
        return found


def test_a_stress_that_no_label_has_cannot_be_converged_to(run_loop, stored_documents, memory_jobstore):
    asked = AccuracyTargets(energy_meV_atom=1000.0, stress_GPa=1e-4)
    maker = loop(accuracy=asked)
    maker.oracle_maker = WithoutStress(physics="emt")
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    (check,) = stored_documents(CheckDocument)
    assert (check.passed, check.teaches) == (False, False)
    assert final.status == "STALLED"
    assert "a stress is asked for, and no label of MD has one: remove stress_GPa from accuracy" in final.why
    assert "true errors are within" not in final.why
    # as it says
    maker.stop_rule.accuracy = replace(asked, stress_GPa=None)
    again = run_loop(OTFMaker.extend("c", memory_jobstore, maker=maker))
    assert again.status == "CONVERGED"


@pytest.mark.parametrize(("most_GPa", "status"), [(50.0, "CONVERGED"), (1e-4, "MAX_ITER_REACHED")])
def test_of_cutouts_the_stress_is_judged_by_labels_left_out(run_loop, stored_documents, most_GPa, status):
    maker = loop(accuracy=AccuracyTargets(stress_GPa=most_GPa), max_cycles=1, learn_check=False)
    maker.propose_maker.cutouts = CutoutGenerator(max_atoms=80, gamma_min=0.1)
    maker.dynamics_maker = ScriptedDynamicsMaker(displacement_A=0.08)
    final = run_loop(maker.make(bulk("Cu", cubic=True) * (4, 4, 4), 300, campaign_id="c"))
    (check,) = stored_documents(CheckDocument)
    (trained,) = [p for p in stored_documents(PotentialDocument) if p.uuid == check.potential_id]
    assert (check.errors.stress_rmse_GPa, check.unmeasured) == (None, [])
    left_out = f"judged by labels left out of the fit alone, {trained.linear.stress_left_out_GPa:.2g} GPa"
    assert left_out in check.describe()
    assert bool(check.left_out_exceeded) == (not check.passed)
    assert final.status == status


def test_the_confidence_of_a_stress_left_out_counts_the_labels_that_have_one(run_loop, stored_documents):
    run_loop(loop(max_cycles=0).make(COPPER, [300], campaign_id="c"))
    trained = stored_documents(PotentialDocument)[0]
    record = trained.linear
    n, n_stresses = record.n_left_out, record.n_left_out_stresses
    assert 0 < n == n_stresses <= trained.train.n_structures, "isolated atoms tell nothing of the rest"
    assert n <= record.n_left_out_atoms <= trained.train.n_atoms
    asked = AccuracyTargets(stress_GPa=1.01 * bound_factor(n, 0.9) * record.stress_left_out_GPa)
    assert exceeded_left_out(trained, asked, 0.9) == []
    few = trained.model_copy(update={"linear": record.model_copy(update={"n_left_out_stresses": 2})})
    (told,) = exceeded_left_out(few, asked, 0.9)
    assert told.startswith("stress of labels left out of the fit")
    earlier = {"n_left_out": None, "n_left_out_atoms": None, "n_left_out_stresses": None}
    old = trained.model_copy(update={"linear": record.model_copy(update=earlier)})
    assert exceeded_left_out(old, asked, 0.9) == []


@dataclass
class FailsOnHot(StandInOracleMaker):
    """No label of the hot walker succeeds."""

    def compute(self, atoms):
        if len(atoms) == len(COPPER) and np.ptp(atoms.positions[:, 0] - COPPER.positions[:, 0]) > 0.6:
            raise RuntimeError("no convergence")
        return super().compute(atoms)


@dataclass
class HotMovesFar(ScriptedDynamicsMaker):
    """Walker 1 moves farther."""

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        if walker.index == 1:
            result.final.positions[0, 0] += 0.8
        return result


def test_a_walker_whose_label_failed_is_not_checked_by_the_others(run_loop, stored_documents):
    maker = loop(max_cycles=1)
    maker.dynamics_maker = HotMovesFar(halts=[], displacement_A=0.08)
    maker.oracle_maker = FailsOnHot(physics="emt", max_failed_fraction=0.9)
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    (check,) = stored_documents(CheckDocument)
    assert [one.walker for one in check.by_walker] == ["w0 300 K"]
    assert check.unchecked == ["w1 600 K"]
    assert not check.passed
    assert final.status != "CONVERGED"
    assert "no frame of w1 600 K was labelled" in check.describe()


def test_a_budget_that_leaves_a_walker_out_is_spent(run_loop, stored_documents):
    n_first = run_loop(loop(n_check_labels=0).make(COPPER, [300, 600], campaign_id="a")).n_labels
    final = run_loop(loop(max_labels=n_first + 1).make(COPPER, [300, 600], campaign_id="b"))
    assert final.status == "BUDGET_SPENT"
    assert final.check is not None
    assert len(final.check.unchecked) == 1
    assert "was labelled" in final.why


def test_expected_errors_are_stored_beside_the_true_ones_and_scale_the_next(run_loop, stored_documents):
    final = run_loop(loop([Halt(step=100)], max_cycles=3, **STRICT).make(COPPER, [300, 600], campaign_id="c"))
    first, *later = stored_documents(PotentialDocument)
    assert (first.linear.fresh_energy_factor, first.linear.fresh_forces_factor) == (1.0, 1.0), "nothing is known yet"
    pairs = [pair for document in (*later, *stored_documents(CheckDocument)) for pair in document.graded]
    assert len(pairs) > 3
    for pair in pairs:
        assert 0.1 < pair.forces_error_eV_A / pair.expected_forces_error_eV_A < 10
        assert pair.expected_energy_error_eV_atom > 0
    # what earlier potentials were wrong by is in the bars of the next ones, and out of what is compared with them
    scaled = later[-1]
    assert scaled.linear.fresh_forces_factor != 1.0
    assert scaled.to_potential().posterior.fresh.forces == pytest.approx(scaled.linear.fresh_forces_factor)
    of_scaled = [pair for check in stored_documents(CheckDocument) for pair in check.graded]
    assert {pair.fresh_factors[1] for pair in of_scaled} <= {p.linear.fresh_forces_factor for p in (first, *later)}
    raw = of_scaled[-1].to_expected()
    assert raw.forces * of_scaled[-1].fresh_factors[1] == pytest.approx(of_scaled[-1].expected_forces_error_eV_A)
    assert final.potential.to_potential().posterior is not None


def test_a_halt_by_expected_errors_is_refused_where_no_potential_has_them():
    maker = loop()
    maker.dynamics_maker.settings = replace(maker.dynamics_maker.settings, max_force_std_eV_A=0.2)
    maker.make(COPPER, 300)
    maker.train_maker = TrainMaker(trainer=LinearACETrainer(ridge=1e-6))
    with pytest.raises(InvalidInputError, match=r"max_force_std_eV_A.*LinearACETrainer gives no error bars"):
        maker.make(COPPER, 300)


def test_a_basis_too_small_for_its_labels_ends_the_loop_and_says_so(run_loop, stored_documents):
    final = run_loop(loop(max_cycles=20, max_not_learnt=2, **STRICT).make(COPPER, 300, campaign_id="c"))
    assert (final.status, final.n_cycles) == ("STALLED", 4)
    assert "2 checks in a row have errors above their limits even after training on them" in final.why
    assert "forces " in final.why
    assert "number_of_functions_per_element" in final.why
    counted = {document.cycle: document.n_not_learnt for document in stored_documents(OTFDocument)}
    assert counted == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}
    assert final.n_functions == sum(stored_documents(PotentialDocument)[-1].n_functions.values())


def test_a_basis_that_grew_is_given_another_chance(stored_documents, run_loop):
    run_loop(loop(max_cycles=2, **STRICT).make(COPPER, 300, campaign_id="c"))
    potential, state = stored_documents(PotentialDocument)[-1], stored_documents(OTFDocument)[-2]
    before = LoopState.model_validate(state.model_dump(include=set(LoopState.model_fields)))
    assert update_state(before, [], [], potential, None).n_not_learnt == 1
    smaller = before.model_copy(update={"n_functions": 1, "n_not_learnt": 2})
    assert update_state(smaller, [], [], potential, None).n_not_learnt == 0
