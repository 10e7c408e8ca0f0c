"""Names of earlier versions lead to the modules of today."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from mlip_autopipec.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_the_old_name_gives_the_module_itself(old):
    sys.modules.pop(f"mlip_autopipec.{old}", None)
    with pytest.warns(DeprecationWarning, match="is now"):
        module = import_module(f"mlip_autopipec.{old}")
    assert module is import_module(f"mlip_autopipec.{MOVED[old]}")
    assert module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == f"mlip_autopipec.{MOVED[old]}"


def test_a_new_process_decodes_what_an_earlier_version_wrote():
    stored = '{"@module": "mlip_autopipec.training.linear", "@class": "LinearACETrainer", "ridge": 1e-5}'
    program = f"from monty.json import MontyDecoder; print(MontyDecoder().decode('{stored}').ridge)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1e-05\n"), done.stderr


def test_what_never_was_is_still_missing():
    with pytest.raises(ModuleNotFoundError, match=r"mlip_autopipec\.ace\.nothing"):
        import_module("mlip_autopipec.ace.nothing")
