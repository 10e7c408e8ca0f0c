"""A potential as others take it: files, inputs that run, its dataset, what to cite."""

from mlip_autopipec.export.bundle import write_export

__all__ = ["write_export"]
