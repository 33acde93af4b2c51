"""How people arrange images in folders: what lies there, what labels it, and one plan that says so."""
