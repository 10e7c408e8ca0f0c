"""What pacemaker is given: the user's own sections, the basis, and what is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pyace import ACEBBasisSet, create_multispecies_basis_config

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.training.pacemaker.trainer import FROM_LINEAR, FROM_SCRATCH, PacemakerTrainer
from mlip_autopipec.training.program import environment

if TYPE_CHECKING:
    from pathlib import Path

POTENTIAL: dict[str, Any] = {
    "deltaSplineBins": 0.001,
    "elements": ["Ni", "Al"],
    "embeddings": {"ALL": {"npot": "FinnisSinclair", "fs_parameters": [1, 1], "ndensity": 1}},
    "bonds": {"ALL": {"radbase": "ChebExpCos", "radparameters": [5.25], "rcut": 5.5, "dcut": 0.01}},
    "functions": {"UNARY": {"nradmax_by_orders": [4, 2], "lmax_by_orders": [0, 1]}},
}


def test_input_of_each_kind_of_fit() -> None:
    trainer = PacemakerTrainer(
        ladder_step=5, ladder_type="power_order", input_sections={"fit": {"maxiter": 900, "loss": {"kappa": 0.6}}}
    )
    nothing = trainer.input(["Cu"], False, fine_tune=False, test=True, seed=3)
    assert nothing["seed"] == 3
    assert nothing["potential"] == trainer.basis.section(["Cu"])
    assert nothing["data"] == {"filename": "train.pckl.gzip", "test_filename": "test.pckl.gzip"}
    assert nothing["fit"]["loss"] == {"kappa": 0.6, "L1_coeffs": 1e-8, "L2_coeffs": 1e-8}
    assert (nothing["fit"]["ladder_step"], nothing["fit"]["ladder_type"]) == (5, "power_order")
    assert nothing["fit"]["maxiter"] == 900

    fine_tune = trainer.input(["Cu"], True, fine_tune=True)
    assert fine_tune["potential"] == "start_potential.yaml"
    assert not {"ladder_step", "ladder_type"} & set(fine_tune["fit"])
    assert fine_tune["fit"]["maxiter"] == trainer.fine_tune_maxiter
    assert fine_tune["fit"]["loss"]["kappa"] == 0.6

    refit = PacemakerTrainer().input(["Cu"], True, fine_tune=False)
    assert refit["potential"] == {"filename": "start_potential.yaml", "reset": True}
    assert refit["fit"]["maxiter"] == FROM_SCRATCH

    linear = PacemakerTrainer().input(["Cu"], True, fine_tune=False, from_linear=True)
    assert (linear["potential"], linear["fit"]["maxiter"]) == ("start_potential.yaml", FROM_LINEAR)
    assert linear["fit"]["loss"]["L2_coeffs"] == pytest.approx(1e-8 * linear["fit"]["loss"]["kappa"] / 0.3)
    stated = PacemakerTrainer(input_sections={"fit": {"loss": {"kappa": 0.5}}}).input(["Cu"], False, fine_tune=False)
    assert stated["fit"]["loss"] == {"kappa": 0.5, "L1_coeffs": 1e-8, "L2_coeffs": 1e-8}
    assert PacemakerTrainer(L1_coeffs=0.0).input(["Cu"], False, fine_tune=False)["fit"]["loss"]["L1_coeffs"] == 0.0
    assert PacemakerTrainer(maxiter=7).input(["Cu"], True, fine_tune=False, from_linear=True)["fit"]["maxiter"] == 7


def test_a_ladder_among_the_sections_stays_out_of_a_fine_tune() -> None:
    trainer = PacemakerTrainer(input_sections={"fit": {"ladder_step": 4}})
    assert trainer.input(["Cu"], False, fine_tune=False)["fit"]["ladder_step"] == 4
    assert "ladder_step" not in trainer.input(["Cu"], True, fine_tune=True)["fit"]
    assert trainer.input_sections["fit"]["ladder_step"] == 4


def test_the_sections_of_a_pacemaker_user_arrive() -> None:
    sections = {
        "metadata": {"purpose": "test"},
        "potential": POTENTIAL,
        "fit": {"options": {"maxcor": 50}, "repulsion": "auto", "trainable_parameters": "ALL"},
        "weighting": {"type": "EnergyBasedWeightingPolicy", "DEup": 30.0},
        "backend": {"gpu_config": {"gpu_ind": 1, "mem_limit": 4000}, "batch_size": 7},
        "data": {"aug_factor": 1e-3},
    }
    trainer = PacemakerTrainer(input_sections=sections)
    written = trainer.input(["Al", "Ni"], False, fine_tune=False)
    assert written["potential"] == {**POTENTIAL, "elements": ["Al", "Ni"]}
    assert written["fit"]["weighting"] == sections["weighting"]
    assert "weighting" not in written
    assert written["fit"]["options"] == {"maxcor": 50, "gtol": 1e-8, "disp": True}
    assert written["backend"] == {"evaluator": "tensorpot", "display_step": 20, **sections["backend"]}
    assert written["data"] == {"filename": "train.pckl.gzip", "aug_factor": 1e-3}
    assert written["metadata"] == {"purpose": "test"}
    # the core is ours, with a margin; pacemaker's own would begin right at the shortest distance
    assert trainer.repulsion == "auto"
    assert "repulsion" not in written["fit"]


def test_the_potential_section_has_one_home_and_travels() -> None:
    trainer = PacemakerTrainer(input_sections={"potential": POTENTIAL})
    assert trainer.basis.potential_section == POTENTIAL
    assert "potential" not in trainer.input_sections
    again = PacemakerTrainer.from_dict(trainer.as_dict())
    assert again == trainer
    with pytest.raises(InvalidInputError, match=r"described twice.*basis\.cutoff"):
        PacemakerTrainer(basis=BasisSettings(cutoff=5.0), input_sections={"potential": POTENTIAL})


def test_an_input_file_is_read_when_the_trainer_is_made(tmp_path: Path) -> None:
    file = tmp_path / "input.yaml"
    content = {
        "seed": 42,
        "potential": POTENTIAL,
        "data": {"filename": "mine.pckl.gzip", "datapath": "/somewhere"},
        "fit": {"loss": {"kappa": 0.08}, "maxiter": 1500},
        "backend": {"evaluator": "tensorpot", "batch_size": 20},
    }
    file.write_text(yaml.safe_dump(content))
    trainer = PacemakerTrainer(input_file=str(file), input_sections={"backend": {"batch_size": 33}})
    file.unlink()
    written = PacemakerTrainer.from_dict(trainer.as_dict()).input(["Al", "Ni"], False, fine_tune=False, seed=5)
    assert written["potential"]["bonds"] == POTENTIAL["bonds"]
    assert written["fit"]["loss"]["kappa"] == 0.08
    assert written["fit"]["maxiter"] == 1500
    assert written["fit"]["early_stopping_patience"] == 375  # a quarter of maxiter
    assert written["backend"]["batch_size"] == 33
    assert written["data"] == {"filename": "train.pckl.gzip"}
    assert written["seed"] == 5
    with pytest.raises(InvalidInputError, match=r"input\.yaml' does not exist"):
        PacemakerTrainer(input_file=str(file))


def test_a_run_file_names_an_input_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "input.yaml").write_text(yaml.safe_dump({"potential": POTENTIAL, "fit": {"loss": {"kappa": 0.08}}}))
    run = {
        "structures": [{"bulk": {"name": "NiAl", "crystalstructure": "cesiumchloride", "a": 2.88}}],
        "conditions": [{"temperature_K": 300}],
        "oracle": {"kind": "emt"},
        "trainer": {"kind": "pacemaker", "input_file": "input.yaml", "maxiter": 77},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    trainer = RunFile.load(tmp_path / "run.yaml").maker().train_maker.trainer
    assert isinstance(trainer, PacemakerTrainer)
    assert trainer.basis.potential_section == POTENTIAL
    assert trainer.input_sections == {"fit": {"loss": {"kappa": 0.08}}}
    assert trainer.maxiter == 77


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"potential": {"filename": "old.yaml"}}, r"potential\.filename: old\.yaml.*start_from\.potential"),
        ({"potential": "old.yaml"}, r"potential is 'old\.yaml'.*start_from\.potential"),
        ({"potential": {**POTENTIAL, "initial_potential": "old.yaml"}}, r"initial_potential.*start_from"),
        ({"data": {"reference_energy": "auto"}}, r"data\.reference_energy: auto.*reference_energies of the trainer"),
        ({"data": {"filename": "x"}}, r"data\.filename: x.*loop writes"),
        ({"data": {"test_size": 0.1}}, r"data\.test_size: 0\.1.*n_test"),
        ({"seed": 1}, r"'seed: 1'.*campaign's seed"),
        ({"cutoff": 7}, r"'cutoff: 7'.*rcut"),
        ({"fits": {"maxiter": 3}}, r"'fits'.*did you mean 'fit'"),
        ({"potentials": {}}, r"did you mean 'potential'"),
        ({"fit": 3}, r"input_sections\.fit is 3"),
        ({"fit": {"max_iter": 3}}, r"fit holds 'max_iter'.*did you mean 'maxiter'"),
        ({"fit": {"loss": {"L1_coefs": 0.0}}}, r"fit\.loss holds 'L1_coefs'.*'L1_coeffs'"),
        ({"backend": {"batchsize": 3}}, r"backend holds 'batchsize'.*'batch_size'"),
        ({"fit": {"maxiter": 0}}, r"fit\.maxiter is 0"),
        ({"fit": {"fit_cycles": 0}}, r"fit\.fit_cycles is 0"),
        ({"fit": {"optimizer": "lm"}}, r"optimizer is 'lm': it trains energies only"),
        ({"fit": {"optimizer": "Adam"}}, r"leaves no potential.*BFGS"),
        ({"fit": {"repulsion": "zbl"}}, r"repulsion is 'zbl'"),
        ({"fit": {"weighting": {}}, "weighting": {}}, r"'weighting' twice"),
        ({"weighting": {"type": "ExternalWeightingPolicy", "filename": "w.pckl.gzip"}}, r"ExternalWeightingPolicy"),
    ],
)
def test_what_the_loop_owns_or_pacemaker_ignores_is_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        PacemakerTrainer(input_sections=sections)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"new_label_weight": 0.0}, r"new_label_weight is 0\.0"),
        ({"new_label_weight": float("nan")}, r"new_label_weight is nan"),
        ({"maxiter": 0}, r"maxiter is 0"),
        ({"refit_every": 0}, r"refit_every is 0"),
        ({"ladder_type": "random"}, r"ladder_type is 'random'"),
        ({"optimizer": "SGD"}, r"optimizer is 'SGD'"),
    ],
)
def test_options_that_train_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        PacemakerTrainer(**options)


@pytest.mark.parametrize(
    ("elements", "words"),
    [(["Al"], r"\['Al', 'Ni'\].*hold \['Al'\].*only in the section: \['Ni'\]"), (["Al", "Cu", "Ni"], r"missing.*'Cu'")],
)
def test_a_potential_section_for_other_elements_is_refused(elements: list[str], words: str) -> None:
    trainer = PacemakerTrainer(input_sections={"potential": POTENTIAL})
    with pytest.raises(InvalidInputError, match=words):
        trainer.basis.section(elements)


@pytest.mark.parametrize(("elements", "n"), [(["Cu"], 400), (["Ni", "Al"], 240), (["Al", "Cu", "Ni"], 160)])
def test_default_basis_by_number_of_elements(elements: list[str], n: int) -> None:
    section = PacemakerTrainer().basis.section(elements)
    basis = ACEBBasisSet(create_multispecies_basis_config(section))
    counts = {e: len(a) + len(b) for e, a, b in zip(basis.elements_name, basis.basis_rank1, basis.basis, strict=True)}
    assert counts == dict.fromkeys(sorted(elements), n)
    assert basis.cutoffmax == 7.0
    assert section["embeddings"]["ALL"]["ndensity"] == 2


def test_a_linear_basis_stays_small() -> None:
    section = BasisSettings().section(["Al", "Ni"])
    assert section["functions"]["number_of_functions_per_element"] == 30
    assert section["bonds"]["ALL"]["rcut"] == 5.0
    assert section["embeddings"]["ALL"]["ndensity"] == 1
    with pytest.raises(InvalidInputError, match="give both or none"):
        BasisSettings(nradmax_by_orders=[4, 2]).section(["Al"])


def test_a_gpu_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment()["CUDA_VISIBLE_DEVICES"] == "2"
    assert environment()["TF_NUM_INTRAOP_THREADS"] == "3"
    assert environment()["TF_CPP_MIN_LOG_LEVEL"] == "0"  # TensorFlow names its device at this level only
