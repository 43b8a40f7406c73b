"""The page's template, style and script; read as text by `everview.pipeline.report.writing`."""
