"""What MD runs into, through the whole loop: overlaps, explosions. Real MD, EMT, a linear ACE."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec import OTFMaker
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, read_events, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)


def squeezed(distance_A):
    atoms = COPPER.copy()
    along = atoms.get_distance(0, 1, mic=True, vector=True)
    atoms.positions[1] = atoms.positions[0] + along / np.linalg.norm(along) * distance_A
    return atoms


def loop(settings, **rule):
    generator = StructureGenerator(n_structures=8, n_test=0, max_atoms=32)
    return OTFMaker(
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=LammpsDynamicsMaker(settings=settings, engine="library"),
        oracle_maker=StandInOracleMaker(physics="emt"),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
        stop_rule=StopRule(n_check_labels=0, max_repeats=2, **rule),
    )


class OverlappingProposeMaker(ProposeMaker):
    """Proposes structures in which two atoms overlap, and one in which none do."""

    def sample(self, walk, potential, seed):
        found = [squeezed(1.0), squeezed(0.7), walk.final_atoms()]
        for atoms, origin in zip(found, ("displacement", "displacement", "halted"), strict=True):
            atoms.info["origin"] = origin
        return found


class AllSelectMaker(SelectMaker):
    def choose(self, potential, candidates, halted, required, n_max):
        return [(k, None) for k in range(len(candidates))]


def test_an_overlap_never_reaches_the_oracle(run_loop, stored_documents, events):
    maker = stand_in_loop(
        events,
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]),
        propose_maker=OverlappingProposeMaker(),
        select_maker=AllSelectMaker(),
        oracle_maker=StandInOracleMaker(physics="emt", max_failed_fraction=0.8),
    )
    final = run_loop(maker.make(COPPER, 300))
    assert final.status == "CONVERGED"
    labels = [label for label in stored_documents(LabelDocument) if label.cycle == 1]
    assert [label.state for label in labels] == ["failed", "failed", "successful"]
    assert "Cu-Cu" in labels[0].reason
    assert "1.000 A" in labels[0].reason
    computed = [event for event in read_events(events) if event == "label"]
    assert len(computed) == final.n_labels
    assert [batch.n_labelled for batch in stored_documents(LabelBatch)][-1] == 1


def test_a_start_that_no_label_can_be_bought_for_is_refused():
    with pytest.raises(InvalidInputError, match=r"Cu32: Cu-Cu are 1.000 A apart; below 1.320 A nothing"):
        loop(MDSettings()).make(squeezed(1.0), 300)


def test_a_start_that_explodes_ends_the_loop_with_the_reason(run_loop, stored_documents):
    """A time step far too long: there is no valid frame but the first, and no label would help."""
    settings = MDSettings(n_steps=400, timestep_fs=80, ensemble="nve", gamma_every=2, gamma_lo=1e8, gamma_hi=1e9)
    final = run_loop(loop(settings, max_cycles=10).make(COPPER, 1500))
    assert final.status == "STALLED"
    assert "explosion" in final.why or "lost_atoms" in final.why
    walks = stored_documents(WalkDocument)
    assert {walk.verdict for walk in walks} == {"explosion"}
    assert all(walk.step < walk.halt_step for walk in walks)
    assert final.n_cycles < 10
    labels = [label for label in stored_documents(LabelDocument) if label.state == "successful"]
    assert max(label.max_force_eV_A for label in labels) < 50, "valid frames were labelled"


def test_after_an_explosion_md_goes_on_from_the_last_sane_frame(run_loop, stored_documents):
    """A ramp to where copper boils; the thresholds of gamma are too high to come first."""
    settings = MDSettings(n_steps=1000, gamma_every=5, temperature_limit_K=900, gamma_lo=1e8, gamma_hi=1e9)
    final = run_loop(loop(settings, max_cycles=2).make(COPPER, Condition(300, temperature_end_K=5000)))
    walks = sorted(stored_documents(WalkDocument), key=lambda walk: walk.cycle)
    first = next(k for k, walk in enumerate(walks) if walk.verdict == "explosion")
    assert walks[first].step == walks[first].halt_step - 5
    assert walks[first + 1].start_step == walks[first].step
    origins = {(label.cycle, label.origin) for label in stored_documents(LabelDocument) if label.cycle}
    assert (1, "halted") in origins
    assert final.status in ("MAX_ITER_REACHED", "STALLED", "CONVERGED")
