"""Why a model is refused, and what a pattern for it would be."""
