"""The oracle of tests: EMT, by name."""

from typing import Any

from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker


def emt_oracle(**fields: Any) -> OracleMaker:
    """Make an oracle that labels with EMT."""
    return OracleMaker(static_maker=EMTStaticMaker(), **fields)
