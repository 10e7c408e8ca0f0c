"""Convergence is refused until properties of the crystal are the oracle's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from atomate2.ase.jobs import GFNxTBStaticMaker

from mlip_autopipec import OTFMaker
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import CheckDocument, OTFDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.properties import PropertyCriterion


class GammaOnlyMaker(EMTStaticMaker):
    """A maker of one's own that says what it samples."""

    gamma_only = True


COPPER = bulk("Cu", cubic=True) * (2, 2, 2)


def loop(criterion, failing=(), **rule):
    """EMT labels and a linear ACE, both real, in MD by a script that never halts."""
    generator = StructureGenerator(n_structures=5, n_test=1, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    return stand_in_loop(
        check=True,
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=ScriptedDynamicsMaker(displacement_A=0.08),
        oracle_maker=StandInOracleMaker(physics="emt", failing=list(failing), max_failed_fraction=0.9),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
        stop_rule=StopRule(criterion=criterion, **rule),
    )


def test_within_wide_limits_it_converges(run_loop, stored_documents, memory_jobstore):
    criterion = PropertyCriterion(properties=["eos", "elastic"], bulk_modulus_tolerance=0.9, elastic_tolerance=0.9)
    final = run_loop(loop(criterion).make(COPPER, [300, 600], campaign_id="c"))
    assert (final.status, final.n_cycles) == ("CONVERGED", 1)
    names = {"equilibrium volume", "bulk modulus", "C11", "C12", "C44"}
    assert {p["name"] for p in final.check.properties} == names
    assert "5 properties within their limits" in final.why
    (check,) = Campaigns(memory_jobstore).checks("c")
    curve = next(p for p in check.comparisons() if p["kind"] == "eos")["data"]
    assert (
        len(curve["oracle"]["energies_eV"])
        == len(curve["oracle"]["volumes_A3"])
        == len(curve["potential"]["energies_eV"])
        == criterion.n_volumes
    )
    assert check.errors.n_structures == 2, "cells of properties are no frames of MD"
    stored = memory_jobstore.query({"output.kind": {"$in": ["check", "loop"]}}, load=False)
    assert not any("volumes_A3" in str(doc) for doc in stored), "curves are bulk"
    labels = read_labels("c", store=memory_jobstore)
    of_gate = [label for label in labels if label.origin == "property"]
    assert {label.split for label in of_gate} == {"check"}
    assert len({label.purpose for label in of_gate}) == len(of_gate) > 7
    assert max(label.n_atoms for label in of_gate) == 1


def test_out_of_its_limits_it_learns_and_asks_for_nothing_twice(run_loop, stored_documents, memory_jobstore):
    criterion = PropertyCriterion(properties=["eos"], volume_tolerance=1e-7)
    maker = loop(criterion, n_check_labels=0, max_cycles=4)
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert final.status == "MAX_ITER_REACHED"
    checks = stored_documents(CheckDocument)
    assert [(c.cycle, c.passed, c.errors) for c in checks] == [(1, False, None), (3, False, None)]
    volumes = [c.properties[0] for c in checks]
    assert [p["name"] for p in volumes] == ["equilibrium volume"] * 2
    assert volumes[1]["error"] < volumes[0]["error"], "what it was told, it learnt"
    assert "equilibrium volume of Cu" in final.check.describe()
    states = stored_documents(OTFDocument)
    assert states[3].n_reused_labels == criterion.n_volumes, (
        "the same cells are asked for again, and were labelled before"
    )


def test_what_the_oracle_did_not_give_is_no_success(run_loop, memory_jobstore, stored_documents):
    criterion = PropertyCriterion(volume_tolerance=0.5, bulk_modulus_tolerance=0.9)
    final = run_loop(loop(criterion, ["label c001 003"]).make(COPPER, 300, campaign_id="c"))
    assert (final.status, final.n_cycles) == ("STALLED", 1), "MD would teach nothing"
    assert not final.check.passed
    assert final.check.properties[0]["state"] == "not_measured"
    assert "told to fail" in final.why
    n_walks = len(stored_documents(WalkDocument))
    extended = run_loop(OTFMaker.extend("c", memory_jobstore))
    assert extended.status == "CONVERGED", "the label that had failed was made"
    assert len(stored_documents(WalkDocument)) == n_walks
    assert extended.n_labels - final.n_labels == criterion.n_volumes + 1
    assert extended.n_reused_labels == criterion.n_volumes, "all but that one"


@pytest.mark.parametrize(("left", "bought"), [(9, {"eos"}), (2, set())])
def test_a_property_is_bought_whole_or_not_at_all(left, bought, run_loop, memory_jobstore):
    criterion = PropertyCriterion(properties=["eos", "elastic"], bulk_modulus_tolerance=0.9)
    final = run_loop(loop(criterion, n_check_labels=0, max_labels=6 + left).make(COPPER, 300, campaign_id="c"))
    purposes = [label.purpose for label in read_labels("c", store=memory_jobstore) if label.origin == "property"]
    assert len(purposes) == criterion.n_volumes * len(bought)
    assert all("eos" in purpose for purpose in purposes)
    assert final.status == "BUDGET_SPENT", "the exit code tells that more labels would help"
    assert not final.check.passed
    told = {p["kind"]: p for p in final.check.properties}
    assert told["elastic"]["state"] == "not_measured"
    assert "StopRule.max_labels leaves fewer labels" in told["elastic"]["description"]
    assert told["eos"]["state"] == ("passed" if bought else "not_measured")


@pytest.mark.parametrize(
    "oracle",
    [GFNxTBStaticMaker(), CalculatorStaticMaker(calculator_class="tblite.ase.TBLite"), GammaOnlyMaker()],
    ids=["atomate2's", "any ASE calculator", "one's own"],
)
def test_an_oracle_without_k_points_takes_wide_cells(oracle):
    maker = loop(PropertyCriterion())
    maker.oracle_maker.static_maker = oracle
    with pytest.raises(InvalidInputError, match="min_width is 0"):
        maker.make(COPPER, 300)
    maker.stop_rule.criterion = PropertyCriterion(min_width=7)
    assert maker.make(COPPER, 300)


def test_a_criterion_without_a_crystal_is_refused():
    water = molecule("H2O", vacuum=4)
    water.pbc = True
    with pytest.raises(InvalidInputError, match="no structure of this campaign has them"):
        loop(PropertyCriterion()).make(water, 300)
    glass = Atoms("Cu8", positions=[[0.1 * i, 2.5 * i, 0.3 * i**2] for i in range(8)], cell=[9, 21, 22], pbc=True)
    assert not replace(PropertyCriterion(), max_atoms=4).structures(glass)
