"""
What this machine can do: programs, packages, stores, and a scientific self-test.

Every check is a plain function that returns a :class:`~mlip_autopipec.doctor.result.Result` and never raises for what
it is there to find; :func:`~mlip_autopipec.doctor.examine.examine` runs all of them.
"""

from __future__ import annotations

from mlip_autopipec.doctor.result import Light, Result

__all__ = ["Light", "Result"]
