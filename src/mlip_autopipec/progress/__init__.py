"""How far a campaign is: read from its documents and from the files of the step under way, shown on a terminal."""

from mlip_autopipec.progress.live import live_view
from mlip_autopipec.progress.read import progress_of
from mlip_autopipec.progress.show import Shown
from mlip_autopipec.progress.types import CampaignProgress, WalkerProgress

__all__ = ["CampaignProgress", "Shown", "WalkerProgress", "live_view", "progress_of"]
