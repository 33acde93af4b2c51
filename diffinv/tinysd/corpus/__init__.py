"""TinySD's LAION: open-source icons with their captions."""
