"""How codes multiply, and what they weigh."""
