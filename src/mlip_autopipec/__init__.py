"""
On-the-fly learning of ACE interatomic potentials.

The names below are imported when they are first used: LAMMPS runs in a process of its own, and
that one need not wait for atomate2.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlip_autopipec import moved

if TYPE_CHECKING:
    from mlip_autopipec.active_learning.activeset import build_active_set, select_active_set
    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.database.disk import open_store
    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
    from mlip_autopipec.jobs.generate import GenerateMaker
    from mlip_autopipec.jobs.label import OracleMaker
    from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
    from mlip_autopipec.jobs.teach import TeachMaker
    from mlip_autopipec.jobs.train import TrainMaker
    from mlip_autopipec.lammps.exploration import run_exploration
    from mlip_autopipec.lammps.types import Condition, HaltStructure, MDSettings
    from mlip_autopipec.loop.stop_rule import StopRule
    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.report.page import write_report
    from mlip_autopipec.sampling.candidates import CandidateGenerator, generate_local_candidates
    from mlip_autopipec.sampling.seeds import StructureGenerator
    from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument
    from mlip_autopipec.training.grace import GRACEBasis, GRACEFSTrainer
    from mlip_autopipec.training.linear import LinearACETrainer
    from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer
    from mlip_autopipec.validation.criteria import CellCriterion, Criteria, Quantity
    from mlip_autopipec.validation.properties import PropertyCriterion
    from mlip_autopipec.validation.targets import AccuracyTargets

moved.install()

_HOMES = {
    "ACEPotential": "potentials.potential",
    "AccuracyTargets": "validation.targets",
    "BasisSettings": "potentials.basis",
    "Campaigns": "database.campaigns",
    "CandidateGenerator": "sampling.candidates",
    "CellCriterion": "validation.criteria",
    "Condition": "lammps.types",
    "GRACEBasis": "training.grace",
    "GRACEFSTrainer": "training.grace",
    "Criteria": "validation.criteria",
    "GenerateMaker": "jobs.generate",
    "HaltStructure": "lammps.types",
    "LammpsDynamicsMaker": "jobs.explore",
    "LinearACETrainer": "training.linear",
    "LoopStatus": "schemas.loop",
    "MDSettings": "lammps.types",
    "OTFDocument": "schemas.loop",
    "OTFMaker": "flows.otf",
    "OracleMaker": "jobs.label",
    "PacemakerTrainer": "training.pacemaker.trainer",
    "PropertyCriterion": "validation.properties",
    "Quantity": "validation.criteria",
    "ProposeMaker": "jobs.propose",
    "SelectMaker": "jobs.propose",
    "StopRule": "loop.stop_rule",
    "StructureGenerator": "sampling.seeds",
    "TeachMaker": "jobs.teach",
    "TrainMaker": "jobs.train",
    "build_active_set": "active_learning.activeset",
    "generate_local_candidates": "sampling.candidates",
    "open_store": "database.disk",
    "run_exploration": "lammps.exploration",
    "select_active_set": "active_learning.activeset",
    "write_report": "report.page",
}
#: Earlier names.
_RENAMED = {"CellGate": "CellCriterion", "Gates": "Criteria", "PropertyGate": "PropertyCriterion"}
__all__ = [
    "ACEPotential",
    "AccuracyTargets",
    "BasisSettings",
    "Campaigns",
    "CandidateGenerator",
    "CellCriterion",
    "Condition",
    "Criteria",
    "GRACEBasis",
    "GRACEFSTrainer",
    "GenerateMaker",
    "HaltStructure",
    "LammpsDynamicsMaker",
    "LinearACETrainer",
    "LoopStatus",
    "MDSettings",
    "OTFDocument",
    "OTFMaker",
    "OracleMaker",
    "PacemakerTrainer",
    "PropertyCriterion",
    "ProposeMaker",
    "Quantity",
    "SelectMaker",
    "StopRule",
    "StructureGenerator",
    "TeachMaker",
    "TrainMaker",
    "build_active_set",
    "generate_local_candidates",
    "open_store",
    "run_exploration",
    "select_active_set",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name in _RENAMED:
        warnings.warn(f"mlip_autopipec.{name} is now {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_autopipec' has no attribute '{name}'")
    return getattr(import_module(f"mlip_autopipec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
