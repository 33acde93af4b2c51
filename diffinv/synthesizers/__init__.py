"""Synthesizers turn a real dataset into a synthetic one; they differ in their fields, never in their call."""
