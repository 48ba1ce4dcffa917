"""The steps of the studies, each with a function `main`; `stages/study.py` runs them."""
