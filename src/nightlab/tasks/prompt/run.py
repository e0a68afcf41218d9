"""Hand the prompt out for judging. Frozen: nothing is worked out here, and no model is asked."""

import json
import os
from pathlib import Path

out = Path(os.environ.get("NIGHTLAB_OUT", "."))
prompt = Path("prompt.md").read_text(encoding="utf-8")
(out / "prompt.json").write_text(json.dumps({"prompt": prompt}), encoding="utf-8")
print(f"characters: {len(prompt)}")
