"""How TinySD, the embedded Stable Diffusion, is pre-trained: a factory that nothing else in the package imports."""
