"""Runnable experiments, with the models and the data sets that they use."""
