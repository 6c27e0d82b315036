"""The mathematics of Patronus: torch alone, no files, no configuration, no printing."""
