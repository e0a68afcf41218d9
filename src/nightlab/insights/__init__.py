"""The insights: what works here, what does not, and what nobody has tried; a deterministic reading of the ledger."""

from nightlab.insights.changes import untouched
from nightlab.insights.reading import insights, lines
from nightlab.insights.texts import for_agents, texts_of

__all__ = ["for_agents", "insights", "lines", "texts_of", "untouched"]
