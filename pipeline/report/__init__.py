"""The report: one self-contained page for any run, safe to open and to send."""

from everview.pipeline.report.writing import report_run, write_report

__all__ = ["report_run", "write_report"]
