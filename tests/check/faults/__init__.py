"""Faults that a compiler like this one could have: put into a conversion, each must fail the default check."""
