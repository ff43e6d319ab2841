"""Plots and pictures for run folders, reports and predictions."""
