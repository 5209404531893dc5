"""From a module to a graph: of a whole text, or of one step."""
