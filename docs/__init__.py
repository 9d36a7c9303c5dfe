"""The documentation; `python -m docs.tables` and `docs.figures` make its parts."""
