"""Where this repository's folders are, and the data that may lie beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Real calculations to check against; tests that need them are skipped where they are missing.
SHARED_DATA = ROOT.parent / "shared" / "data"
