"""
On-the-fly learning of ACE interatomic potentials.

The names below are imported when they are first used: LAMMPS runs in a process of its own, and
that one need not wait for atomate2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_autopipec.ace.activeset import build_active_set, select_active_set
    from mlip_autopipec.ace.basis import BasisSettings
    from mlip_autopipec.ace.gates import CellGate, Gates, Quantity
    from mlip_autopipec.ace.grace import GRACEBasis, GRACEFSTrainer
    from mlip_autopipec.ace.linear import LinearACETrainer
    from mlip_autopipec.ace.pacemaker import PacemakerTrainer
    from mlip_autopipec.ace.potential import ACEPotential
    from mlip_autopipec.ace.properties import PropertyGate
    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.database.disk import open_store
    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.generate.candidates import CandidateGenerator, generate_local_candidates
    from mlip_autopipec.generate.seeds import StructureGenerator
    from mlip_autopipec.jobs.assess import StopRule
    from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
    from mlip_autopipec.jobs.generate import GenerateMaker
    from mlip_autopipec.jobs.label import OracleMaker
    from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
    from mlip_autopipec.jobs.train import TrainMaker
    from mlip_autopipec.lammps.exploration import run_exploration
    from mlip_autopipec.lammps.types import Condition, HaltStructure, MDSettings
    from mlip_autopipec.report.page import write_report
    from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument

_HOMES = {
    "ACEPotential": "ace.potential",
    "BasisSettings": "ace.basis",
    "Campaigns": "database.campaigns",
    "CandidateGenerator": "generate.candidates",
    "CellGate": "ace.gates",
    "Condition": "lammps.types",
    "GRACEBasis": "ace.grace",
    "GRACEFSTrainer": "ace.grace",
    "Gates": "ace.gates",
    "GenerateMaker": "jobs.generate",
    "HaltStructure": "lammps.types",
    "LammpsDynamicsMaker": "jobs.explore",
    "LinearACETrainer": "ace.linear",
    "LoopStatus": "schemas.loop",
    "MDSettings": "lammps.types",
    "OTFDocument": "schemas.loop",
    "OTFMaker": "flows.otf",
    "OracleMaker": "jobs.label",
    "PacemakerTrainer": "ace.pacemaker",
    "PropertyGate": "ace.properties",
    "Quantity": "ace.gates",
    "ProposeMaker": "jobs.propose",
    "SelectMaker": "jobs.propose",
    "StopRule": "jobs.assess",
    "StructureGenerator": "generate.seeds",
    "TrainMaker": "jobs.train",
    "build_active_set": "ace.activeset",
    "generate_local_candidates": "generate.candidates",
    "open_store": "database.disk",
    "run_exploration": "lammps.exploration",
    "select_active_set": "ace.activeset",
    "write_report": "report.page",
}
__all__ = [
    "ACEPotential",
    "BasisSettings",
    "Campaigns",
    "CandidateGenerator",
    "CellGate",
    "Condition",
    "GRACEBasis",
    "GRACEFSTrainer",
    "Gates",
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
    "PropertyGate",
    "ProposeMaker",
    "Quantity",
    "SelectMaker",
    "StopRule",
    "StructureGenerator",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_autopipec' has no attribute '{name}'")
    return getattr(import_module(f"mlip_autopipec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
