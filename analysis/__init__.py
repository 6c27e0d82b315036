"""Reading a run: figures for people, NPZ, CSV and JSON for programs."""
