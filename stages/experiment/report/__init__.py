"""Reporting: statistics of paired replicates, measures, figures. Nothing here trains."""
