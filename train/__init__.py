"""Turning data and a YAML file into a run, and a run into images."""
