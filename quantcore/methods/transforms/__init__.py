"""Transforms move or spread outliers before a weight is coded, and leave what the float model computes as it is."""
