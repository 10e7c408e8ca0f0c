"""Criteria of one's own: named cells, and numbers that follow from their labels."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from monty.json import MontyDecoder

from mlip_autopipec import CellCriterion, Criteria, PropertyCriterion, Quantity
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.validation.crystals import PropertyError

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)


@dataclass
class VacancyCriterion(CellCriterion):
    """Formation energy of a vacancy, unrelaxed."""

    tolerance_eV: float = 0.05

    def cells(self, atoms):
        vacancy = atoms[0].copy()
        del vacancy[0]
        return {"crystal": atoms[0], "vacancy": vacancy}

    def measure(self, labels):
        crystal, vacancy = labels["crystal"], labels["vacancy"]
        if vacancy.energy < crystal.energy:
            raise PropertyError("the vacancy heals")
        formation = vacancy.energy - len(vacancy.forces) / len(crystal.forces) * crystal.energy
        return {"formation energy": Quantity(formation, "eV", self.tolerance_eV)}


class Scaled(EMT):
    """Another potential: all energies and forces times a factor."""

    factor = 1.5

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results = {name: self.factor * value for name, value in self.results.items()}


class NotFinite(Scaled):
    factor = float("nan")


class Healing(Scaled):
    factor = -1.0


def test_what_follows_from_the_labels_is_compared(emt_labelled):
    criterion = VacancyCriterion()
    labels = emt_labelled(criterion.structures(COPPER))
    (same,) = criterion.compare(COPPER, labels[::-1], EMT())
    assert (same.state, same.name, same.unit, same.crystal) == ("passed", "formation energy", "eV", "Cu")
    assert same.oracle == pytest.approx(labels[1].get_potential_energy() - 31 / 32 * labels[0].get_potential_energy())
    assert same.potential == pytest.approx(same.oracle)
    (other,) = criterion.compare(COPPER, labels, Scaled())
    assert other.state == "failed"
    assert other.error == pytest.approx(0.5 * other.oracle)


@pytest.mark.parametrize(("calculator", "words"), [(NotFinite, "not finite"), (Healing, "heals")])
def test_a_potential_without_the_number_fails_with_the_reason(calculator, words, emt_labelled):
    criterion = VacancyCriterion()
    (found,) = criterion.compare(COPPER, emt_labelled(criterion.structures(COPPER)), calculator())
    assert found.state == "failed"
    assert found.potential is None
    assert words in found.reason


def test_a_missing_label_is_never_passed(emt_labelled):
    criterion = VacancyCriterion()
    crystal, vacancy = criterion.structures(COPPER)
    failures = {vacancy.info["property"]: "SCF did not converge"}
    (found,) = criterion.compare(COPPER, emt_labelled([crystal]), EMT(), failures)
    assert found.state == "not_measured"
    assert "1 of its 2 labels are missing: 'VacancyCriterion: vacancy' (SCF did not converge)" in found.reason


def test_a_budget_buys_whole_criteria():
    criteria = Criteria([PropertyCriterion(), VacancyCriterion()])
    n_volumes, n_all = len(PropertyCriterion().structures(COPPER)), len(criteria.structures(COPPER))
    assert n_all == n_volumes + 2
    assert [len(criteria.affordable(COPPER, budget)) for budget in (None, n_all, n_all - 1, 2, 1)] == [
        n_all, n_all, n_volumes, 2, 0,
    ]  # fmt: skip


def test_all_criteria_have_to_pass_and_a_shared_cell_is_labelled_once(emt_labelled):
    twice = Criteria([VacancyCriterion(), VacancyCriterion(tolerance_eV=1e-9), PropertyCriterion()])
    cells = twice.structures(COPPER)
    assert len(cells) == 2 + len(PropertyCriterion().structures(COPPER))
    found = twice.compare(COPPER, emt_labelled(cells), EMT())
    assert [c.name for c in found] == ["formation energy", "formation energy", "equilibrium volume", "bulk modulus"]
    assert all(c.passed for c in found)
    with pytest.raises(InvalidInputError, match="no structure of this campaign"):
        twice.check(molecule("H2"))
    with pytest.raises(InvalidInputError, match=r"PropertyCriterion\.min_width is 0"):
        twice.check(COPPER, gamma_only=True)
    with pytest.raises(InvalidInputError, match="give one or more criteria"):
        Criteria([])


def test_a_rule_with_criteria_comes_back_from_the_store():
    rule = StopRule(criterion=Criteria([VacancyCriterion(0.1), PropertyCriterion(["eos"], n_volumes=9)]))
    again = MontyDecoder().decode(rule.to_json())
    assert again == rule
