"""Every bad value of a run file is told in a sentence, with file, line, field, value and remedy, within a second."""

from __future__ import annotations

import os
import time

import pytest
import yaml

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.errors import RunFileText
from mlip_autopipec.runfile.model import RunFile

RUN = {
    "name": "copper",
    "structures": [{"bulk": {"name": "Cu", "crystal": "fcc", "a": 3.6, "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 300, "pressure_GPa": 0}],
    "oracle": {"kind": "emt"},
    "dynamics": {"n_steps": 100, "timestep_fs": 1.0},
    "candidates": {"displacement_sigma": 0.1},
    "first_dataset": {"rattle_amplitudes": [0.1, 0.2], "volume_window": [0.9, 1.1]},
    "selection": {"n_max": 2},
    "validation": {"n_frames": 1},
}
TEXT = yaml.safe_dump(RUN, sort_keys=False)


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """Import what a campaign needs, and see that nothing is wrong with the run file to begin with."""
    path = tmp_path_factory.mktemp("good") / "run.yaml"
    path.write_text(TEXT)
    RunFile.load(path).flow()


def refusal(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(InvalidInputError) as told:
        RunFile.load(path).flow()
    assert time.process_time() - began < 30  # no hang, however busy the machine
    assert "run.yaml" in str(told.value)
    assert len(str(told.value)) < 6000
    return str(told.value)


@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-.inf", "1e20", "1.0e+30", "-5.0", "true", "No", "On", "0600", "1:30", "'x'", "[]", "{}"]
)
@pytest.mark.parametrize(
    ("field", "old"),
    [
        ("conditions.0.temperature_K", "temperature_K: 300"),
        ("dynamics.n_steps", "n_steps: 100"),
        ("dynamics.timestep_fs", "timestep_fs: 1.0"),
        ("candidates.displacement_sigma", "displacement_sigma: 0.1"),
        ("first_dataset.rattle_amplitudes", "- 0.2"),
        ("first_dataset.volume_window", "- 1.1"),
        ("selection.n_max", "n_max: 2"),
        ("validation.n_frames", "n_frames: 1"),
    ],
)
def test_numbers_that_are_none_or_beyond_all_physics(tmp_path, field, old, value):
    head, _, _ = old.rpartition(" ")
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, f"{head} {value}")
    message = refusal(tmp_path, text)
    line = text[: text.index(f"{head} {value}")].count("\n") + 1
    if not field.startswith("first_dataset"):
        assert f"line {line}, {field}: " in message, message
    assert field in message


@pytest.mark.parametrize("repeat", [[0, 1, 1], [-1, 1, 1], [1, 1], [10**6, 1, 1], [900, 900, 900]])
def test_repeats(tmp_path, repeat):
    run = {**RUN, "structures": [{**RUN["structures"][0], "repeat": repeat}]}
    assert "structures.0.repeat" in refusal(tmp_path, yaml.safe_dump(run))


@pytest.mark.parametrize(
    "bulk",
    [
        {"name": "Cu", "a": 1e20},
        {"name": "Cu", "a": float("nan")},
        {"name": "Cu", "a": 0},
        {"name": "X"},
        {"name": False},
        {"name": "Cu", "a": 1e-9},
        {"name": "Cu", "a": -3.6},
        {},
        {"name": "Cu", "a": "x" * 10**5},
    ],
    ids=lambda bulk: str(bulk)[:40],
)
def test_crystals(tmp_path, bulk):
    message = refusal(tmp_path, yaml.safe_dump({**RUN, "structures": [{"bulk": bulk}]}))
    assert "structures.0" in message
    if bulk.get("name") is False:
        assert "quote" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [  # ids would hold the texts
        ("a: &a [*a]", "line 1: *a holds itself"),
        (
            "\n".join(
                [f"a0: &a0 [{'x, ' * 50}x]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 50)}]" for i in range(9))]
            ),
            "holds more than 50000 values",
        ),
        ("[" * 3000 + "]" * 3000, "nested deeper than 30 levels"),
        ("{a: " * 3000 + "1" + "}" * 3000, "nested deeper than 30 levels"),
        ("- " * 2000 + "1", "nested deeper than 30 levels"),
        (TEXT.replace("300", "3" * 5000), "more than 400 digits"),
        (TEXT.replace("name: copper", "seed: " + "3" * 300), "seed"),
        (
            TEXT.replace("- temperature_K: 300\n  pressure_GPa: 0\n", "- {temperature_K: 300}\n" * 30_000),
            "holds more than 50000 values|larger than 1 MB",
        ),
        (
            TEXT.replace("- temperature_K: 300\n  pressure_GPa: 0\n", "- {temperature_K: 300}\n" * 5000),
            "conditions: has 5000 entries",
        ),
        ("x" * 2_000_000, "larger than 1 MB"),
        (b"\xff\xfe\x00abc", "no UTF-8 text"),
        (b"\x00\x01\x02", "not valid YAML"),
        ("? [a, b]\n: 1", "not valid YAML|unknown key"),
        ("1: 2\n2: 3", "1: is a key that YAML reads as int.*quote it"),
        ("!!python/object/apply:os.system ['touch x']", "not valid YAML"),
        ("a: !!timestamp 99999-99-99", "not valid YAML"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!binary '*'", "unknown key"),
        ("\n".join(f"k{i}: 1" for i in range(20_000)), "unknown key"),
    ],
    ids=lambda value: str(value)[:24].replace("\n", " "),
)
def test_text_that_hangs_or_crashes_readers(tmp_path, text, told):
    import re

    assert re.search(told.replace("*a", r"\*a"), refusal(tmp_path, text))


def test_anchors_may_be_used(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TEXT.replace("- temperature_K: 300", "- &a\n  temperature_K: 300") + "ladder: off\n")
    assert RunFile.load(path).ladder is False
    path.write_text(TEXT.replace("timestep_fs: 1.0", "timestep_fs: 1e-0"))  # YAML 1.1 reads a word
    assert RunFile.load(path).dynamics.timestep_fs == 1


@pytest.mark.parametrize("kind", ["folder", "device", "loop", "fifo", "none"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "run.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = type(path)("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(InvalidInputError, match=r"is a folder|is no file|does not exist"):
        RunFileText(path)


def test_a_value_of_a_section_in_a_section_is_not_blamed_on_another_of_its_name(tmp_path):
    told = refusal(tmp_path, TEXT.replace("dynamics:\n", "dynamics:\n  bias: {n_steps: 0}\n"))
    assert "dynamics.bias.n_steps: " in told
    assert "dynamics.n_steps" not in told


@pytest.mark.parametrize("text", ["''", "'  '"])
def test_an_empty_configuration_of_colvars_is_no_folder(tmp_path, text):
    told = refusal(tmp_path, TEXT.replace("pressure_GPa: 0", f"colvars: {text}"))
    assert "colvars: " in told
    assert "defines no collective variable" in told
