"""Questions about a graph that passes ask before they change it."""
