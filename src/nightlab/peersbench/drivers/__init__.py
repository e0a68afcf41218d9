"""Thin scripts of ours that run inside the environments of others."""
