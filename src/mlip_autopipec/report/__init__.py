"""Results of a campaign for its user: files, a parity plot, a closing summary, an HTML page."""

from mlip_autopipec.report.results import plot_parity, summary_table, write_results

__all__ = ["plot_parity", "summary_table", "write_results"]
