"""Reads what runs wrote and makes pages of it that open from disk."""

from rlhf_jax.reports.report import write_comparison, write_report, write_sweep_report

__all__ = ["write_comparison", "write_report", "write_sweep_report"]
