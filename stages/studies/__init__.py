"""The steps of the studies, each with a function `main`; `stages/study.py` runs them."""

BASELINE = "adam"  # the arm that the others are compared with
