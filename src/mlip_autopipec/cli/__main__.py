"""``python -m mlip_autopipec.cli``."""

from mlip_autopipec.cli import app

if __name__ == "__main__":
    app()
