"""Three notebooks, and what runs them."""
