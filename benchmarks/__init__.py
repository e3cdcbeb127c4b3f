"""Benchmarks: each a script that prints a table, says what machine it ran on, and writes JSON to results/."""
