"""How rewrites are written and applied: patterns, matching, and the passes' form."""
