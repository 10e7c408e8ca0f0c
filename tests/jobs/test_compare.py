"""A dataset of another energy surface than the oracle's is refused before anything learns from it."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.compare import compare_given
from mlip_autopipec.jobs.dataset import pack_labels, read_labels
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.oracle.comparison import compare_labels, worth_comparing
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.structures.provenance import Split, mark
from mlip_autopipec.testing import stand_in_loop

COPPER = bulk("Cu", cubic=True)


def dataset(energy=lambda e, n: e, forces=1.0, stress=None):
    frames = []
    for seed in range(3):
        atoms = COPPER.copy()
        atoms.rattle(0.05, seed=seed)
        probe = atoms.copy()
        probe.calc = EMT()
        results = {
            "energy": energy(probe.get_potential_energy(), len(atoms)),
            "forces": forces * probe.get_forces(),
            "stress": (stress or 1.0) * probe.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def flow(labels, n_compared=2):
    oracle = OracleMaker(static_maker=EMTStaticMaker(), n_compared=n_compared)
    return stand_in_loop(oracle_maker=oracle).make(COPPER, 300, labels=labels, campaign_id="c")


def test_labels_of_the_oracle_pass_and_the_comparison_is_stored(run_loop, memory_jobstore):
    run_loop(flow(dataset()))
    documents = memory_jobstore.query({"output.kind": "comparison"}, ["output"])
    found = [one for document in documents for one in document["output"]["compared"]]  # of a job each
    assert sorted(one["index"] for one in found) == [0, 1]
    assert max(abs(one["energy_meV_atom"]) for one in found) < 1e-6
    assert len(read_labels("c", store=memory_jobstore)) == 3


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (dataset(lambda e, n: e - 1000 * n), r"label 0 of the dataset \(Cu4\).*\+1e\+06 meV/atom.*another zero"),
        (dataset(lambda e, n: e + 0.3 * n), r"-300 meV/atom.*shift them by a constant for each element"),
        (dataset(forces=1.3), r"forces [\d.]+ meV/A of [\d.]+, .*Label the dataset with the settings of the oracle"),
        (dataset(stress=-1.0), r"the stress has another sign, order or unit"),
    ],
)
def test_labels_of_another_surface_are_refused_before_anything_is_trained(run_loop, memory_jobstore, labels, told):
    assert run_loop(flow(labels)).status is LoopStatus.FAILED
    oracle = OracleMaker(static_maker=EMTStaticMaker(), reuse_labels=False)
    with pytest.raises(InvalidInputError, match=told):
        compare_given.original(oracle, pack_labels(labels, "c", [0, 1]), "c")
    assert memory_jobstore.query_one({"output.kind": "potential"}) is None


def test_noise_is_let_in_and_nothing_is_compared_on_request(run_loop, memory_jobstore):
    run_loop(flow(dataset(lambda e, n: e + 0.004 * n)))
    assert memory_jobstore.query_one({"output.kind": "potential"}) is not None
    assert len(flow(dataset(), 0).jobs) == len(flow(dataset(), 1).jobs) - 1


def test_atoms_in_another_order_are_compared_by_the_sizes_of_their_forces():
    (given, *_) = dataset()
    turned = given[[2, 0, 3, 1]]
    turned.calc = SinglePointCalculator(
        turned, energy=given.get_potential_energy(), forces=given.get_forces()[[2, 0, 3, 1]]
    )
    assert not compare_labels(given, turned).differs
    turned.calc.results["forces"] = 1.5 * turned.calc.results["forces"]
    assert compare_labels(given, turned).forces_differ


def test_small_cells_of_different_elements_are_chosen():
    small, *_ = dataset()
    large = small.repeat(2)
    large.calc = SinglePointCalculator(large, energy=0.0, forces=np.ones((len(large), 3)))
    gold = large.copy()
    gold.symbols[:] = "Au"
    gold.calc = large.calc
    alone = small[:1]
    alone.calc = SinglePointCalculator(alone, energy=0.0, forces=np.zeros((1, 3)))
    mark(alone, split=Split.REFERENCE)
    assert worth_comparing([alone, large, small, gold], 2) == [2, 3]
    assert worth_comparing([alone], 2) == []
