"""Tests of patterns and matching."""
