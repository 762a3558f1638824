"""The machine-learning reproducibility checklist of runs, every answer read from a file that is named beside it."""
