"""References in plain NumPy, float64, written to be read: they define what the kernels must compute.

Indices carry the field's names: n (image), c (input channel), o (output channel), h and w (input position), y and x
(output position), r and s (filter row and column), g (group).
"""
