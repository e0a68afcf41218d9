"""The page: a study in the browser, live, read from its ledger alone; steered through the one table of controls."""
