"""Live: the same loop with real visitors; what is shown to whom, what they did, and what may be said of it."""
