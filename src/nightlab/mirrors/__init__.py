"""Mirrors: a study as one run of another tracker, W&B, MLflow or trackio, by that tracker's own client.

A mirror runs in a process of its own: such clients start threads, write into stdout, and are large.
"""
