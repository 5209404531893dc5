"""Tests of running files."""
