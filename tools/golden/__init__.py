"""The steps of make_golden.py, which need torch and transformers."""
