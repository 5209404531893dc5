"""Dumps: what each pass left of the graph, as files that people and programs read and compare."""
