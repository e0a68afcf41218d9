"""Contracts to subclass, and fakes that run."""
