"""Triton kernels. Under TRITON_INTERPRET=1 they run on CPU tensors, in float32 and float16 (the
interpreter's bfloat16 products are wrong).
"""
