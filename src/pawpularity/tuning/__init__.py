"""The search for settings: Optuna over `fit_fold`, scored on an inner split, with an honest rescoring of the best."""
