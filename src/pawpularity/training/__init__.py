"""Training: fold.py trains and scores a fold, fit.py fits its network, loop.py runs the epochs."""
