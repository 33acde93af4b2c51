"""Runs the notebooks headless, and makes the site of what they found."""
