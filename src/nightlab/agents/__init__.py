"""Agents: coding agents on the command line, a built-in agent for any model API, and the relay they speak through."""
