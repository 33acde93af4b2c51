"""The paper's own code, called upstream: each thing it does otherwise is a switch, all are a preset."""
