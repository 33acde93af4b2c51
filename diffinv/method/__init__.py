"""The paper's method, read downwards: inversion, perturbation, sampling, store, cached, held_out_loss."""
