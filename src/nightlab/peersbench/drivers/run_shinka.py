"""Runs ShinkaEvolve in its own environment, as a plan says. Knows nothing of Nightlab."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

_CORES = 16


def main(folder: Path) -> None:
    """One search; what it holds to be best goes to best.json."""
    from shinka.core import EvolutionConfig, ShinkaEvolveRunner
    from shinka.database import DatabaseConfig
    from shinka.launch import LocalJobConfig

    plan = json.loads((folder / "plan.json").read_text())
    if plan["style"] == "tuned":  # by the cores there are it would cut two slots on two cores down to one
        os.cpu_count = lambda: _CORES
    search = EvolutionConfig(
        patch_types=["diff"],
        patch_type_probs=[1.0],
        num_generations=plan["experiments"] + 1,
        llm_models=[f"local/shinka@{plan['url']}"],
        llm_dynamic_selection=None,
        meta_rec_interval=None,
        embedding_model=None,
        init_program_path=str(folder / "program.py"),
        results_dir=str(folder / "out"),
        enable_controlled_oversubscription=plan["style"] == "tuned",
        proposal_target_mode="fixed",
        proposal_buffer_max=plan["thinkers"],
    )
    evaluator = "documented.py" if plan["style"] == "documented" else "evaluate.py"
    job = LocalJobConfig(
        eval_program_path=str(folder / evaluator), time=f"00:00:{plan['timeout']:02d}", python_executable=sys.executable
    )
    runner = ShinkaEvolveRunner(
        search,
        job,
        DatabaseConfig(),
        verbose=False,
        max_evaluation_jobs=plan["slots"],
        max_proposal_jobs=plan["thinkers"],
    )
    runner.run()
    with closing(_programs(folder)) as programs:
        rows = programs.execute("SELECT code, combined_score FROM programs WHERE correct ORDER BY combined_score DESC")
        code, claimed = rows.fetchone()
    (folder / "best.json").write_text(json.dumps({"source": code, "claimed": claimed, **known(folder)}))


def _programs(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(next((folder / "out").rglob("*.sqlite")))


def known(folder: Path) -> dict[str, Any]:
    """How many programs its database holds: what a resumed search starts from."""
    with closing(_programs(folder)) as programs:
        return {"known": programs.execute("SELECT count(*) FROM programs").fetchone()[0]}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2:] == ["known"]:
        sys.stdout.write(json.dumps(known(where)))
    else:
        main(where)
