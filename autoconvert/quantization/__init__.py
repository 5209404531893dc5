"""How weights are stored: encodings, and the recipe that chooses them."""
