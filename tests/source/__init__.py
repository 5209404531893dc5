"""Tests of where models and their weights come from."""
