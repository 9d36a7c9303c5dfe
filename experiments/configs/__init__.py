"""Configs of the experiments; each says its command, its time and its result."""
