"""The machine that a benchmark runs on, in a line."""

import os
import platform
from pathlib import Path

from mlip_autopipec.settings import available_cores


def described():
    """Return processor, cores, memory, Python and load."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {available_cores()} cores, {gigabytes:.0f} GB, {platform.system()}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
