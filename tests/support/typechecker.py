"""Annotations are checked with whole numbers taken for floats, as type checkers do."""

from beartype import BeartypeConf, beartype


check = beartype(conf=BeartypeConf(is_pep484_tower=True))
