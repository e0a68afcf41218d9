"""Executors for more than this machine: a Ray cluster, a Slurm cluster. The shim and the jail are the same there."""
