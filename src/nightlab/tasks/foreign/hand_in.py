"""Hands the candidate in, as a file that holds its text; nothing of it is run here. Frozen."""

import json
import os
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
Path(os.environ["NIGHTLAB_OUT"], "candidate.json").write_text(json.dumps(text))
