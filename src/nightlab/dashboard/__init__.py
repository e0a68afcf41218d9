"""What people look at: the terminal view and the progress picture. They read the ledger like anyone else."""
