"""The swarm: labs that read each other's ledgers, share everything and believe nothing."""
