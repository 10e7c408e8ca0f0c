"""
Write database_0_1_0.json: what version 0.1.0 stored. To be run with that version (commit 691b7a1) only.

Two campaigns of copper by EMT with the makers whose classes have moved since: ``ended``, and ``broken``, whose process
died in cycle 1; and keys of labels as that version computed them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ase.build import bulk
from atomate2.ase.jobs import GFNxTBStaticMaker
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from mlip_autopipec.oracle.espresso import EspressoStaticMaker
from mlip_autopipec.oracle.static import CalculatorStaticMaker, EMTStaticMaker
from monty.json import jsanitize

from mlip_autopipec import (
    BasisSettings,
    CandidateGenerator,
    GenerateMaker,
    LammpsDynamicsMaker,
    LinearACETrainer,
    MDSettings,
    OracleMaker,
    OTFMaker,
    PropertyGate,
    ProposeMaker,
    SelectMaker,
    StopRule,
    StructureGenerator,
    TrainMaker,
)
from mlip_autopipec.oracle.vasp import vasp_static_maker


def maker() -> OTFMaker:
    return OTFMaker(
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=5, n_test=1)),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=200, gamma_lo=1.2, gamma_hi=1.5)),
        select_maker=SelectMaker(gamma_min=1.2),
        propose_maker=ProposeMaker(generator=CandidateGenerator(n_samples=8)),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=8, cutoff=4.0))
        ),
        stop_rule=StopRule(
            max_cycles=4, property_gate=PropertyGate(n_volumes=5, volume_tolerance=0.5, bulk_modulus_tolerance=0.9)
        ),
        seed=5,
    )


def main() -> None:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    atoms = bulk("Cu", cubic=True)
    for name in ("ended", "broken"):
        run_locally(maker().make(atoms, [1200], campaign_id=name), store=store, create_folders=False, log=False)
    cycles = {
        d["output"]["cycle"]
        for d in store.query({"output.campaign_id": "broken", "output.kind": "loop"}, ["output.cycle"])
    }
    assert max(cycles) >= 1, cycles
    # its process died when the labels of cycle 1 were there and nothing was trained on them
    late = [
        d["uuid"]
        for d in store.query({"output.campaign_id": "broken"}, ["uuid", "output.cycle", "output.kind"])
        if d["output"]["cycle"] > 1
        or (d["output"]["cycle"] == 1 and d["output"]["kind"] in ("potential", "walk", "loop"))
    ]
    documents = [d for d in store.docs_store.query() if d["uuid"] not in late or d["output"]["cycle"] < 1]
    wanted = {d["uuid"] for d in documents}
    data = [d for d in store.additional_stores["data"].query() if d["job_uuid"] in wanted]
    quartz = bulk("Si", cubic=True)
    makers = {
        "emt": (EMTStaticMaker(), atoms),
        "calculator": (
            CalculatorStaticMaker(
                calculator_class="ase.calculators.lj.LennardJones",
                calculator_kwargs={"rc": 5.0},
                energy_kind="potential_energy",
            ),
            atoms,
        ),
        "xtb": (GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB"}), quartz),
        "espresso": (
            EspressoStaticMaker(pseudopotentials={"Si": "Si.upf"}, input_data={"system": {"ecutwfc": 30}}),
            quartz,
        ),
        "vasp": (vasp_static_maker(), quartz),
    }
    keys = {name: OracleMaker(static_maker=one).key_of(structure) for name, (one, structure) in makers.items()}
    content = {
        "keys": keys,
        "documents": jsanitize([{k: v for k, v in d.items() if k != "_id"} for d in documents]),
        "data": jsanitize([{k: v for k, v in d.items() if k != "_id"} for d in data]),
    }
    Path(sys.argv[1]).write_text(json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
