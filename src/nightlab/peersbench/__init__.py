"""Peers: the same work to Nightlab and to systems a user would pick instead, each from the package index, in one run.

    work         a program of switches, edits, and a scripted model over real HTTP
    systems      environments, drivers, the one log that all evaluations write
    throughput   experiments a minute; a system's own time
    constants    the tuner beside Optuna's samplers and random search
    faults       one bank of edits to all; hangs, kill -9, a model out of order
    page         the tables of docs/benchmarks.md

No peer's code is here: `drivers/` holds thin scripts of ours that run inside their environments.
"""
