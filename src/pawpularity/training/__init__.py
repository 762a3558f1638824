"""Training: one fold in one straight read. fold.py is the whole of it, fit.py and loop.py its inside."""
