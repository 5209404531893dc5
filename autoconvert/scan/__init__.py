"""Scans: what runs along a sequence with a state, and the forms in which it need not run step by step."""
