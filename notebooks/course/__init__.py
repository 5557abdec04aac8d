"""What only notebooks and scripts use: pictures, checks of exercises, timing, emulated FP16.

And `execute`, the script that executes the notebooks.
"""
