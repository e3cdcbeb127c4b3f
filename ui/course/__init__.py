"""The course: scenes as data, what is guessed, who follows whom."""
