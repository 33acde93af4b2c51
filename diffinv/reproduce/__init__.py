"""Runs the notebooks headless, and shows what they drew."""
