"""What a run file is told when it is wrong: file, line, field, value, and what is allowed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import ase.io
import jsonschema
import pytest
import yaml
from ase.build import bulk
from paths import ROOT
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, app
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.model import RunFile, json_schema

if TYPE_CHECKING:
    from pathlib import Path

TUTORIALS = ROOT / "tutorials"
GOOD = """\
name: copper
structures:
  - bulk: {name: Cu, crystal: fcc, a: 3.6, cubic: true}
    repeat: [2, 2, 2]
conditions:
  - {temperature_K: 300}
  - temperature_K: 600
oracle:
  kind: emt
trainer:
  kind: linear
  basis: {cutoff: 4.5}
dynamics:
  n_steps: 100
stop: {max_cycles: 3}
"""


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        RunFile.load(path).load_structures()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("name: copper", "nmae: copper", 1, r"nmae: unknown key 'nmae' \(got 'copper'\); did you mean 'name'\?"),
        ("name: copper", "name: ../copper", 1, r"name: name is '\.\./copper'; it has to name a folder below runs"),
        (
            "n_steps: 100",
            "n_step: 100",
            14,
            r"dynamics\.n_step: .*got 100.*did you mean 'n_steps'.*allowed are .*gamma_lo",
        ),
        ("n_steps: 100", "gamma: 3", 14, r"dynamics\.gamma: .*did you mean 'gamma_\w+'"),
        ("n_steps: 100", "n_steps: few", 14, r"dynamics\.n_steps: .*valid integer.*'few'"),
        ("n_steps: 100", "n_steps: 0", 14, r"dynamics\.n_steps: .*n_steps is 0; it has to be positive"),
        ("{cutoff: 4.5}", "{cutof: 4.5}", 12, r"trainer\.basis\.cutof: .*did you mean 'cutoff'"),
        (
            "kind: linear",
            "kind: liner",
            11,
            r"trainer\.kind: .*'liner'.*did you mean 'linear'.*grace, linear, pacemaker",
        ),
        ("kind: linear", "maxiter: 3", 10, r"trainer\.kind: is missing; allowed are grace, linear, pacemaker"),
        ("temperature_K: 600", "temperature: 600", 7, r"conditions\.1\.temperature: .*did you mean 'temperature_K'"),
        ("temperature_K: 600", "temperature_K: -5", 7, r"conditions\.1\.temperature_K: .*is -5.*positive"),
        ("temperature_K: 600", "pressure_GPa: 1", 7, r"conditions\.1\.temperature_K: is missing: Target temperature"),
        ("kind: emt", "kind: abinit", 9, r"oracle\.kind: .*'emt'.*'vasp'.*'abinit'"),
        ("kind: emt", "kind: emt\n  maker: {calculator_kwarg: {}}", 8, "did you mean 'calculator_kwargs'"),
        ("max_cycles: 3", "max_cycles: -3", 15, r"stop\.max_cycles: .*is -3"),
        ("name: Cu", "name: Kr, crystall: 3", 3, r"structures\.0: .*Kr.*it takes name, crystalstructure"),
        ("repeat:", "repeats:", 4, r"did you mean 'repeat'"),
        ("stop: {", "stop: {max_cycles: 4, ", 15, r"stop\.max_cycles: is given twice"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_is_allowed(tmp_path, old, new, line, told):
    assert GOOD.count(old) == 1
    message = refusal(tmp_path, GOOD.replace(old, new))
    lines = [one for one in message.splitlines() if re.search(told, one)]
    assert lines, message
    assert lines[0].startswith(f"  line {line}, "), message


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path):
    message = refusal(tmp_path, GOOD.replace("n_steps", "nsteps").replace("name: copper", "nam: x"))
    assert [int(n) for n in re.findall(r"^  line (\d+)", message, re.MULTILINE)] == [1, 14]


@pytest.mark.parametrize(
    ("text", "told"), [("", "not a mapping"), ("- 1", "not a mapping"), ("a: [", "not valid YAML")]
)
def test_what_is_no_run_file_at_all(tmp_path, text, told):
    assert told in refusal(tmp_path, text)


@pytest.mark.parametrize("called", ["subprocess.run", "ase.build.bulk", "no.such.module"])
def test_nothing_but_a_calculator_is_called_by_name(tmp_path, called):
    maker = f"maker: {{calculator_class: {called}, calculator_kwargs: {{args: [touch, {tmp_path / 'touched'}]}}}}"
    assert called in refusal(tmp_path, GOOD.replace("kind: emt", f"kind: ase\n  {maker}"))
    assert not (tmp_path / "touched").exists()


def test_a_template_does_not_reach_python(tmp_path):
    (tmp_path / "md.lmp").write_text(
        "{{ elements.__class__.__mro__[-1].__subclasses__() }} {{ stop.update(gamma=0) }}\n"
    )
    path = tmp_path / "run.yaml"
    path.write_text(GOOD.replace("n_steps: 100", "n_steps: 100\n  template: md.lmp"))
    with pytest.raises(InvalidInputError, match="unsafe"):
        RunFile.load(path).flow()


def test_no_class_that_the_file_names_is_made(tmp_path):
    """monty would make any object from ``@module`` and ``@class``."""
    dimers = "first_dataset: {dimers: {'@module': subprocess, '@class': Popen}}\n"
    assert re.search(r"line 16, first_dataset\.dimers\.@(module|class): unknown key", refusal(tmp_path, GOOD + dimers))


def test_structures_are_what_ase_or_pymatgen_reads(tmp_path):
    ase.io.write(tmp_path / "POSCAR", bulk("Cu", cubic=True))
    (tmp_path / "nacl.json").write_text(
        json.dumps(Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]).as_dict())
    )
    text = yaml.safe_load(GOOD)
    text["structures"] = [{"file": "POSCAR", "repeat": [1, 2, 3]}, {"file": "nacl.json"}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(text))
    copper, salt = RunFile.load(tmp_path / "run.yaml").load_structures()
    assert (len(copper), copper.cell.lengths() / 3.61) == (24, pytest.approx([1, 2, 3], rel=1e-3))
    assert salt.get_chemical_formula() == "Cl4Na4"
    (tmp_path / "nacl.json").write_text("{}")
    assert "line 17, structures.1: " in refusal(tmp_path, yaml.safe_dump(text))


def test_materials_project_needs_a_key_and_the_key_is_never_told(tmp_path, monkeypatch):
    for name in ("MP_API_KEY", "PMG_MAPI_KEY"):
        monkeypatch.delenv(name, raising=False)
    text = GOOD.replace("bulk: {name: Cu, crystal: fcc, a: 3.6, cubic: true}", "materials_project: mp-30")
    assert "MP_API_KEY" in refusal(tmp_path, text)
    monkeypatch.setenv("MP_API_KEY", "s3cret")
    message = refusal(tmp_path, text)
    assert "mp-30 cannot be fetched" in message
    assert "s3cret" not in message


def test_materials_project_gives_the_conventional_cell(tmp_path, monkeypatch):
    """The client is pymatgen's; no network here, so what it would return stands in for the server."""
    from pymatgen.ext.matproj import MPRester

    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    primitive = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.58), ["Cu"], [[0] * 3]).get_primitive_structure()
    monkeypatch.setattr(MPRester, "request", lambda *_, **__: [{"structure": primitive}])
    path = tmp_path / "run.yaml"
    text = GOOD.replace("bulk: {name: Cu, crystal: fcc, a: 3.6, cubic: true}", "materials_project: mp-30")
    path.write_text(text)
    (atoms,) = RunFile.load(path).load_structures()
    assert len(atoms) == 32


def test_the_schema_is_one_and_knows_the_tutorials(tmp_path):
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == CONVERGED, result.output
    schema = json.loads(result.output)
    assert schema == json_schema()
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    for path in sorted(TUTORIALS.glob("*.yaml")):
        assert not list(check.iter_errors(yaml.safe_load(path.read_text()))), path
    wrong = {**yaml.safe_load(GOOD), "dynamics": {"n_step": 3}}
    (error,) = check.iter_errors(wrong)
    assert "n_step" in error.message
    assert CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "s.json")]).exit_code == CONVERGED
    assert json.loads((tmp_path / "s.json").read_text()) == schema


def test_every_field_of_the_schema_says_what_it_is():
    schema = json_schema()
    silent = [
        f"{model.get('title')}.{name}"
        for model in (schema, *schema["$defs"].values())
        for name, field in model.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field
    ]
    assert not silent


def test_the_line_of_a_refused_setting_follows_from_its_field_and_not_from_the_message(tmp_path, monkeypatch):
    def refuse(self):
        raise InvalidInputError.of("StopRule.max_labels", "= 3 does not suit; something else is wrong")

    monkeypatch.setattr("mlip_autopipec.loop.stop_rule.StopRule.check", refuse)
    path = tmp_path / "run.yaml"
    path.write_text(GOOD.replace("stop: {max_cycles: 3}", "stop:\n  max_cycles: 2\n  max_labels: 3"))
    number = path.read_text().splitlines().index("  max_labels: 3") + 1
    with pytest.raises(InvalidInputError, match=rf"line {number}, stop\.max_labels: StopRule\.max_labels = 3 does not"):
        RunFile.load(path)


@pytest.mark.parametrize(
    ("line", "loc", "message"),
    [
        (
            "accuracy: {stress_GPa: -1.0}",
            "accuracy.stress_GPa",
            r"accuracy\.stress_GPa is -1\.0; it has to be positive",
        ),
        ("stop: {max_labels: 0}", "stop.max_labels", r"StopRule\.max_labels is 0; "),
    ],
)
def test_a_refused_value_is_named_with_its_line(tmp_path, line, loc, message):
    text = GOOD.replace("stop: {max_cycles: 3}", line)
    number = text.splitlines().index(line) + 1
    assert re.search(rf"line {number}, {re.escape(loc)}: {message}", refusal(tmp_path, text))


def test_an_ensemble_that_a_structure_forbids_is_named_with_its_line(tmp_path):
    cell = "    repeat: [2, 2, 2]\n    frozen: [0]\n"
    text = GOOD.replace("    repeat: [2, 2, 2]\n", cell).replace("n_steps: 100", "n_steps: 100\n  ensemble: npt")
    number = text.splitlines().index("  ensemble: npt") + 1
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(
        InvalidInputError, match=rf"line {number}, dynamics\.ensemble: MDSettings\.ensemble is 'npt', but"
    ):
        RunFile.load(path).flow()


def test_a_key_of_a_structure_that_does_not_suit_is_named_with_its_line(tmp_path):
    text = GOOD.replace("    repeat: [2, 2, 2]\n", "    repeat: [2, 2, 2]\n    elements: [Cu]\n")
    number = text.splitlines().index("    elements: [Cu]") + 1
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=rf"line {number}, structures\.0\.elements: structures\.elements is"):
        RunFile.load(path).load_structures()


def test_the_earlier_key_of_outliers_is_as_good(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(GOOD + "quarantine: {n_sigma: 7}\n")
    assert RunFile.load(path).maker().train_maker.outliers.n_sigma == 7
    path.write_text(GOOD + "quarantine: null\n")
    assert RunFile.load(path).maker().train_maker.outliers is None
    assert "line 16, quarantine.n_sigma: " in refusal(tmp_path, GOOD + "quarantine: {n_sigma: -7}\n")
    assert "line 16, quarantine.n_sgma: unknown key" in refusal(tmp_path, GOOD + "quarantine: {n_sgma: 7}\n")
    assert "unknown key 'quarantine'" in refusal(tmp_path, GOOD + "outliers: null\nquarantine: null\n")
