"""Adapters: the same versions and counts, spoken in the forms of other programs."""
