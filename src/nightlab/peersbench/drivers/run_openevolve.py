"""Runs OpenEvolve in its own environment, as a plan says. Knows nothing of Nightlab."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """One search; what it holds to be best goes to best.json."""
    from openevolve.config import Config, LLMModelConfig
    from openevolve.controller import OpenEvolve

    plan = json.loads((folder / "plan.json").read_text())
    config = Config(max_iterations=plan["experiments"], log_level="ERROR")
    config.llm.models = [
        LLMModelConfig(name="openevolve", api_base=plan["url"], api_key="x", timeout=60, retries=3, retry_delay=1)
    ]
    config.llm.update_model_params({"temperature": 0.7, "max_tokens": 4096})
    config.evaluator.timeout = plan["timeout"]
    config.evaluator.max_retries = 0
    config.evaluator.cascade_evaluation = False
    config.evaluator.parallel_evaluations = plan["thinkers"]
    search = OpenEvolve(str(folder / "program.py"), str(folder / "evaluate.py"), config, str(folder / "out"))
    asyncio.run(search.run(iterations=plan["experiments"], checkpoint_path=_newest(folder / "out" / "checkpoints")))
    best = search.database.get_best_program()
    said = {"source": best.code, "claimed": best.metrics["combined_score"], "known": len(search.database.programs)}
    (folder / "best.json").write_text(json.dumps(said))


def _newest(checkpoints: Path) -> str | None:
    found = sorted(checkpoints.glob("checkpoint_*"), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
    return str(found[-1]) if found else None


def known(folder: Path) -> dict[str, Any]:
    """How many programs the newest checkpoint holds: what a resumed search starts from."""
    newest = _newest(folder / "out" / "checkpoints")
    return {"known": len(list(Path(newest, "programs").glob("*.json"))) if newest else 0}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2:] == ["known"]:
        sys.stdout.write(json.dumps(known(where)))
    else:
        main(where)
