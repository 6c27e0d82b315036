"""Where data and records live. Both can be moved with environment variables; importing this does nothing else."""

import os
from pathlib import Path

REPO_DIR = Path(__file__).resolve().parent
DATA_DIR = Path(os.environ.get("PATRONUS_DATA_DIR", REPO_DIR / "data"))
RECORDS_DIR = Path(os.environ.get("PATRONUS_RECORDS_DIR", REPO_DIR / "records"))
