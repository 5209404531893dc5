"""Tests of what a conversion tells."""
