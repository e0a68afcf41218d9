"""Runs GEPA's optimize_anything in its own environment, as a plan says. Knows nothing of Nightlab."""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """One search; what it holds to be best goes to best.json."""
    from gepa.optimize_anything import (
        EngineConfig,
        GEPAConfig,
        ReflectionConfig,
        optimize_anything,
    )
    from gepa.strategies.proposal_sampling import IndependentSampling

    plan = json.loads((folder / "plan.json").read_text())
    evaluate = _evaluator(folder / "evaluate.py")
    engine = EngineConfig(
        run_dir=str(folder / "out"),
        max_candidate_proposals=plan["experiments"],
        max_workers=plan["slots"],
        cache_evaluation=True,
        raise_on_exception=False,
        sampling_strategy=IndependentSampling(plan["thinkers"]) if plan["style"] == "tuned" else None,
    )
    result = optimize_anything(
        (folder / "program.py").read_text(),
        evaluator=evaluate,
        objective="Make the score as high as you can.",
        config=GEPAConfig(engine=engine, reflection=ReflectionConfig(reflection_lm=Model(plan["url"]))),
    )
    best = max(range(len(result.candidates)), key=lambda number: result.val_aggregate_scores[number])
    source = result.best_candidate
    source = source if isinstance(source, str) else next(iter(source.values()))
    said = {"source": source, "claimed": result.val_aggregate_scores[best], "known": len(result.candidates)}
    (folder / "best.json").write_text(json.dumps(said))


def _evaluator(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def evaluate(candidate: str) -> float:
        return float(module.scored(candidate))

    return evaluate


class Model:
    """A model over HTTP, a callable, as GEPA's documents allow; several prompts go out at a time."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, prompt: Any) -> str:
        """The answer to one prompt."""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        body = json.dumps({"model": "gepa", "messages": turns}).encode()
        request = urllib.request.Request(f"{self._url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    def batch_complete(self, prompts: list[Any], **_: Any) -> list[str]:
        """The answers to several, asked at once."""
        with ThreadPoolExecutor(len(prompts)) as threads:
            return list(threads.map(self, prompts))


def known(folder: Path) -> dict[str, Any]:
    """How many evaluations its saved state remembers."""
    from gepa.core.state import GEPAState

    state = GEPAState.load(str(folder / "out")) if (folder / "out" / "gepa_state.bin").exists() else None
    return {"known": state.total_num_evals if state else 0}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2:] == ["known"]:
        sys.stdout.write(json.dumps(known(where)))
    else:
        main(where)
