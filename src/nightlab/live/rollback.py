"""The rollback: one version is taken from all visitors now, whatever any test says."""

from __future__ import annotations

from nightlab.errors import BadTask, NotFound
from nightlab.live.assignment import shares
from nightlab.live.store import Split, Store


def roll_back(store: Store, number: int | None = None, *, words: str = "rolled back by a human") -> tuple[int, Split]:
    """Take a version down, the champion unless another is named; its part goes to the rest, its place to its parent.

    The service has it within half a second. Raises NotFound where nothing is shown, BadTask where it is the start.
    """
    now = store.split()
    if now is None:
        raise NotFound("nothing is shown to anybody yet; nightlab live deploy shows the start")
    number = now.champion if number is None else number
    arms = {arm.number: arm for arm in store.arms()}
    if number not in arms:
        raise NotFound(f"there is no version {number}; there are {', '.join(map(str, arms))}")
    if number == 0:
        raise BadTask("version 0 is the start, which everything else is rolled back to")
    store.set_status(number, "rolled back", words)
    champion = now.champion
    while champion == number or arms[champion].status in ("rolled back", "frozen"):
        champion = arms[champion].parent or 0
    weights = {arm: weight for arm, weight in now.weights.items() if arm != number}
    return number, store.put_split(shares({champion: max(now.weights.values()), **weights}), champion)
