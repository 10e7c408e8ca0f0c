"""The loop with stand-ins for everything that costs time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.testing.dynamics import ScriptedDynamicsMaker
from mlip_autopipec.testing.oracle import StandInOracleMaker
from mlip_autopipec.testing.sampling import StandInProposeMaker, StandInSelectMaker
from mlip_autopipec.testing.trainer import StandInTrainer


def stand_in_loop(events: str | None = None, *, check: bool = False, **makers: Any) -> OTFMaker:
    """
    Make an :class:`~mlip_autopipec.flows.otf.OTFMaker` of stand-ins.

    Parameters
    ----------
    events
        Absolute path of the log of events, for all stand-ins.
    check
        Whether convergence is checked, with further labels, which the stand-in of a potential would not pass, and by
        runs from the start with the final potential.
    makers
        Fields of the loop that are to be other than the default stand-ins.
    """
    defaults: dict[str, Any] = {
        "generate_maker": GenerateMaker(generator=StructureGenerator(n_structures=2, n_test=1, max_atoms=16)),
        "dynamics_maker": ScriptedDynamicsMaker(),
        "propose_maker": StandInProposeMaker(),
        "select_maker": StandInSelectMaker(),
        "oracle_maker": StandInOracleMaker(),
        "train_maker": TrainMaker(trainer=StandInTrainer(), outliers=None),
    }
    maker = OTFMaker(**{**defaults, **makers})
    if not check:
        maker.stop_rule = replace(maker.stop_rule, n_check_labels=0, prove=False)
    if events is not None:
        recorders = (
            maker.dynamics_maker,
            maker.propose_maker,
            maker.select_maker,
            maker.oracle_maker,
            maker.train_maker.trainer,
        )
        for recorder in recorders:
            if hasattr(recorder, "events"):
                recorder.events = events
    return maker
