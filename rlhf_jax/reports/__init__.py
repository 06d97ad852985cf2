"""Reads what a run wrote and makes one HTML page of it."""

from rlhf_jax.reports.page import write_report

__all__ = ["write_report"]
