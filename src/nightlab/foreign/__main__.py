"""The judge of a task made by `nightlab init --from`: started as `python -m nightlab.foreign VERB PATH`."""

from __future__ import annotations

import sys
from pathlib import Path

from nightlab.foreign.judging import main

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
