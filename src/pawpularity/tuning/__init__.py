"""The search for settings: Optuna over the very `fit_fold` that trains, judged by an inner split, told honestly."""
