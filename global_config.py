"""Where data, records and shipped runs live. All can be moved with environment variables; importing this does nothing
else."""

import os
from pathlib import Path

REPO_DIR = Path(__file__).resolve().parent  # or, installed without the clone, where the packages and configs/ lie
HOME_DIR = REPO_DIR if (REPO_DIR / "pyproject.toml").is_file() else Path.cwd()
DATA_DIR = Path(os.environ.get("PATRONUS_DATA_DIR", HOME_DIR / "data"))
PRETRAINED_DIR = Path(os.environ.get("PATRONUS_PRETRAINED_DIR", REPO_DIR / "pretrained"))
RECORDS_DIR = Path(os.environ.get("PATRONUS_RECORDS_DIR", HOME_DIR / "records"))
