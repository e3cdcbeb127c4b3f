"""What a user takes along: checkpoints, recipes, reports."""
