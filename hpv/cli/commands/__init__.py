"""A file for each command of ``hpv``, named after it."""
