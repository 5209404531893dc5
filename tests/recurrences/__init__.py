"""Tests of recurrences."""
