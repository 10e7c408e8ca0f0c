"""A dataset of another energy surface than the oracle's is refused before anything learns from it."""

from __future__ import annotations

import json
import re

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.database.documents import labels_in_state
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.export.bundle import write_export
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.oracle.comparison import compare_labels, fit_shift, worth_comparing
from mlip_autopipec.oracle.energy_scale import unit_of_energies
from mlip_autopipec.report.collect import Limits, collect
from mlip_autopipec.report.labels import by_origin
from mlip_autopipec.report.results import write_results
from mlip_autopipec.schemas.label import ComparedLabel, LabelDocument
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
    found = max((document["output"]["compared"] for document in documents), key=len)  # the last one has all
    assert sorted(one["index"] for one in found) == [0, 2]
    assert max(abs(one["energy_meV_atom"]) for one in found) < 1e-6
    assert len(read_labels("c", store=memory_jobstore)) == 3


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (dataset(lambda e, n: e - 1000 * n), r"\(Cu4\).*\+1e\+06 meV/atom.*another zero"),
        (dataset(lambda e, n: e + 0.3 * n), r"-300 meV/atom.*shift them by a constant for each element"),
        (dataset(forces=1.3), r"forces [\d.]+ meV/A of [\d.]+, .*Label the dataset with the settings of the oracle"),
        (dataset(forces=-1.0), r"are -1 times those of the oracle: they are gradients; turn their sign"),
        (dataset(forces=units.mol / units.kcal), r"are 23.06 times those of the oracle: they are in kcal/mol/A"),
        (dataset(stress=-1.0), r"the stress has another sign, order or unit"),
    ],
)
def test_labels_of_another_surface_are_refused_before_anything_is_trained(run_loop, memory_jobstore, labels, told):
    ended = run_loop(flow(labels))
    assert ended.status is LoopStatus.FAILED
    assert re.search(rf"^the dataset is refused: label \d of the dataset.*{told}", ended.why)
    assert memory_jobstore.query_one({"output.kind": "potential"}) is None


def test_a_refused_dataset_ends_with_one_sentence(run_loop, memory_jobstore, caplog):
    run_loop(flow(dataset(forces=1.3)))
    assert not [record for record in caplog.records if record.levelname == "ERROR" or "Traceback" in record.message]
    assert "the label job failed" not in caplog.text
    documents = [doc["output"] for doc in memory_jobstore.query({"output.kind": "comparison"}, ["output"])]
    assert [len(document["compared"]) for document in documents] == [1, 1]  # the second computes nothing more
    assert len({document["refused"] for document in documents}) == 1


def test_what_was_computed_is_kept_and_is_no_label_of_the_dataset(run_loop, memory_jobstore, monkeypatch):
    run_loop(flow(dataset()))
    (one, two) = memory_jobstore.query({"output.kind": "compared_label"}, ["output"])
    label = LabelDocument.model_validate(one["output"])
    assert label.energy_eV is not None
    assert label.computed_with is not None
    assert one["output"]["key"] != two["output"]["key"]
    assert len(read_labels("c", store=memory_jobstore)) == 3
    assert memory_jobstore.count(labels_in_state("c", "successful")) == 0
    # a second campaign buys nothing again, and neither does a label of the loop
    monkeypatch.setattr(EMTStaticMaker, "_get_calculator", no_calculator)
    oracle = OracleMaker(static_maker=EMTStaticMaker(), n_compared=2)
    run_loop(stand_in_loop(oracle_maker=oracle).make(COPPER, 300, labels=dataset(), campaign_id="d"))
    again = [doc["output"] for doc in memory_jobstore.query({"output.campaign_id": "d"}, ["output"])]
    last = max((doc for doc in again if doc["kind"] == "comparison"), key=lambda doc: len(doc["compared"]))
    assert (last["n_reused"], last["refused"]) == (2, None)
    assert memory_jobstore.count({"output.kind": "compared_label"}) == 2


def no_calculator(self):
    raise AssertionError("a label is bought again")


def alloy_dataset(shift, elements=("Cu", "Au"), wrong=0.0):
    """Labels of EMT whose energies have another zero for each element."""
    frames = []
    for seed, n_other in enumerate((0, 1, 2, 3, 4)):
        atoms = COPPER.copy()
        atoms.symbols[:n_other] = elements[1]
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() - sum(shift[s] for s in atoms.symbols) + wrong * seed**2
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces(), stress=atoms.get_stress())
        frames.append(atoms)
    return frames


def shifted_flow(labels, campaign_id="c"):
    oracle = OracleMaker(static_maker=EMTStaticMaker(), energy_shift="fit")
    return stand_in_loop(oracle_maker=oracle).make(labels[0], 300, labels=labels, campaign_id=campaign_id)


def test_energies_are_shifted_for_each_element_on_request(run_loop, memory_jobstore, caplog):
    shift = {"Cu": 0.3, "Au": -1000.0}
    labels = alloy_dataset(shift)
    run_loop(shifted_flow(labels))
    documents = [doc["output"] for doc in memory_jobstore.query({"output.kind": "comparison"}, ["output"])]
    (found,) = [document["energy_shift_eV"] for document in documents if document["energy_shift_eV"]]
    assert found == pytest.approx(shift, abs=1e-6)
    assert re.search(r"are shifted by eV per atom: Au -1000\.0000 \+- \S+, Cu \+0\.3000 \+- \S+; 5 labels", caplog.text)
    for label, given in zip(read_labels("c", store=memory_jobstore), labels, strict=True):
        atoms = label.to_atoms()
        energy = atoms.get_potential_energy()
        atoms.calc = EMT()
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert energy != pytest.approx(given.get_potential_energy())
        assert "energy shifted by" in label.corrections[-1]
        assert energy == pytest.approx(given.get_potential_energy() + label.shifted_eV)
        assert atoms.info["energy_shift_eV"] == label.shifted_eV
    assert memory_jobstore.query_one({"output.kind": "potential"}) is not None


def test_a_shift_has_an_uncertainty_and_is_told_wherever_the_labels_are(run_loop, memory_jobstore, tmp_path):
    final = run_loop(shifted_flow(alloy_dataset({"Cu": 0.3, "Au": -1.0})))
    campaigns = Campaigns(memory_jobstore)
    compared = campaigns.comparison("c")
    assert max(compared.energy_shift_std_eV.values()) < 1e-6
    told = r"Au -1\.0000 \+- \S+, Cu \+0\.3000 \+- \S+ eV per atom, by 5 labels \(within \S+ meV/atom\)"
    assert re.fullmatch(told, compared.describe_shift())
    write_export(tmp_path / "export", campaigns, "c")
    readme = (tmp_path / "export/README.md").read_text()
    assert re.search(rf"Labels that were given had another zero of the energy; theirs are shifted\nby {told}", readme)
    exported = ase.io.read(tmp_path / "export/dataset/train.extxyz")
    assert exported.info["energy_shift_eV"] == pytest.approx(-1.0 * 4)
    note = by_origin(collect(campaigns, "c", Limits())).note
    assert re.search(rf"brought along are shifted to the scale of the oracle: {told}\.", note)
    write_results(tmp_path, final, [], compared=compared)
    written = json.loads((tmp_path / "result.json").read_text())["given_labels_compared"]
    assert written["energy_shift_eV"] == compared.energy_shift_eV


def test_energies_of_noisy_labels_are_shifted_with_that_noise():
    """Of labels that differ by a milli-electronvolt per atom more than a shift explains."""
    shift = fit_shift(["Cu4", "Cu2Au2", "Au4"], [4 * 0.3, 2 * 0.3 + 2 * 0.1 + 4 * 0.002, 4 * 0.1])
    assert shift.of_element == pytest.approx({"Au": 0.1, "Cu": 0.3}, abs=2e-3)
    assert 1e-3 < shift.std["Cu"] < 3e-3
    assert 1.0 < shift.left_meV_atom < 2.0
    assert fit_shift(["Cu4", "Au4"], [1.2, 0.4]).std == {}


def test_energies_that_agree_are_not_shifted(run_loop, memory_jobstore):
    run_loop(shifted_flow(alloy_dataset({"Cu": 0.0, "Au": 0.0})))
    documents = memory_jobstore.query({"output.kind": "comparison"}, ["output"])
    assert all(doc["output"]["energy_shift_eV"] is None for doc in documents)


def test_what_no_constant_mends_is_refused(run_loop):
    ended = run_loop(shifted_flow(alloy_dataset({"Cu": 0.3, "Au": 1.0}, wrong=0.5)))
    assert ended.status is LoopStatus.FAILED
    assert re.search(r"a constant for each element \(eV: Au .*leaves differences of up to", ended.why)


def test_compositions_that_do_not_determine_a_shift_are_refused():
    same = [atoms for atoms in alloy_dataset({"Cu": 0.3, "Au": 1.0}) if list(atoms.symbols).count("Au") == 2] * 2
    with pytest.raises(InvalidInputError, match=r"do not tell the energies of Au, Cu apart \(1 independent"):
        shifted_flow(same)
    with pytest.raises(InvalidInputError, match="n_compared is 0: there is nothing to fit to"):
        OracleMaker(static_maker=EMTStaticMaker(), energy_shift="fit", n_compared=0).check(["Cu"])


def test_enough_labels_are_compared_for_a_shift():
    labels = alloy_dataset({"Cu": 0.3, "Au": 1.0})
    assert len(worth_comparing(labels, 1, for_shift=True)) == 5  # one for each element, three that test it
    assert len(worth_comparing(labels, 6, for_shift=True)) == 5
    assert len(worth_comparing(labels[:4], 1, for_shift=True)) == 4
    many = [one for _ in range(3) for one in dataset()]
    assert len(worth_comparing(many, 6, for_shift=True)) == 6


def test_a_shift_is_tested_by_energies_that_are_far_apart():
    """Labels of liquid copper with one energy agree with any unit of it."""
    labels = [one for _ in range(4) for one in dataset()]
    for i, atoms in enumerate(labels):
        atoms.calc.results["energy"] = 4 * (1.0 + 0.05 * (i == 5) - 0.04 * (i == 7))
    large = labels[0].repeat((3, 1, 1))
    large.calc = SinglePointCalculator(large, energy=99.0, forces=np.ones((12, 3)))
    chosen = worth_comparing([*labels, large], 2, for_shift=True)
    assert len(chosen) == 4
    assert {5, 7} <= set(chosen)
    assert 12 not in chosen


HARTREE = 1 / units.Hartree


def spread(energy, n=6):
    """Labels in cells of several sizes, of which none is near to another."""
    frames = []
    for seed in range(n):
        atoms = COPPER.copy()
        atoms.set_cell((0.95 + 0.02 * seed) * atoms.cell.array, scale_atoms=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        results = {"energy": energy(atoms.get_potential_energy(), 4), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize(
    ("energy", "told"),
    [
        (
            lambda e, _: e * HARTREE,
            r"given energies are 0\.03675 times those of the oracle: they are in Hartree; multiply",
        ),
        (lambda e, n: e / n, r"given energies are 0\.25 times those .* in eV per atom; multiply them by 4\."),
        (
            lambda e, n: (e - 3.5 * n) * HARTREE,
            r"differences between .* are 0\.0367\d* times .*in Hartree; multiply them",
        ),
        (lambda e, n: 1000 * (e - n), r"differences between .* are 1000 times .*they are in meV; divide them by 1000"),
    ],
)
@pytest.mark.parametrize("energy_shift", ["none", "fit"])
def test_energies_in_another_unit_are_not_shifted(run_loop, memory_jobstore, energy, told, energy_shift):
    oracle = OracleMaker(static_maker=EMTStaticMaker(), energy_shift=energy_shift)
    ended = run_loop(stand_in_loop(oracle_maker=oracle).make(COPPER, 300, labels=spread(energy), campaign_id="c"))
    assert ended.status is LoopStatus.FAILED
    assert re.search(rf"^the dataset is refused: label \d of the dataset.*The forces agree, and.* {told}", ended.why)
    assert "another zero" not in ended.why


def test_no_shift_is_offered_where_labels_of_one_composition_differ_by_various_amounts(run_loop):
    labels = spread(lambda e, n: e)
    labels[-1].calc.results["energy"] += 0.3 * 4  # the second that is compared
    why = run_loop(flow(labels)).why
    assert re.search(r"differ by various amounts \(meV/atom: label 0 \(Cu4\) \S+, label 5 \(Cu4\) -300\)", why)
    assert "another zero (" not in why


def test_energies_about_zero_are_no_unit():
    """At rest EMT's energies are nearly nothing in any unit."""
    near = [ComparedLabel(index=i, formula="Cu4", energy_meV_atom=0.1, energy_given_eV=1e-5) for i in range(2)]
    assert unit_of_energies(near) is None
    assert unit_of_energies([]) is None


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
    assert worth_comparing(dataset(), 2) == [0, 2]  # of one size the last: two sources are one behind the other
