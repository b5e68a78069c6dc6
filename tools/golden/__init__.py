"""The steps of make_golden.py; torch and transformers stay in here."""
