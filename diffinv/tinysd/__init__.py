"""How TinySD, the embedded Stable Diffusion, is pre-trained: nothing else in the package imports it."""
