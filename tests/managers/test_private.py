"""FireWorks' functions without a public name are those that were tested."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from mlip_autopipec.errors import ExecutableError

private = pytest.importorskip("mlip_autopipec.managers.fireworks.private")


def test_the_installed_version_is_one_of_those():
    private.check()
    assert version("fireworks").startswith(private.TESTED)


def test_another_one_is_refused(monkeypatch):
    monkeypatch.setattr(private.LaunchPad, "_refresh_wf", lambda self: None)
    with pytest.raises(ExecutableError, match=r"no LaunchPad\._refresh_wf\(self, fw_id\).*Install FireWorks 2.1.x"):
        private.check()
