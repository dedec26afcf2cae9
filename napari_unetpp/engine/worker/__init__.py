"""What runs in the worker process: the core, a warm model, kept nodes of what is on screen.

Nothing here is imported by the client. :mod:`boot` is light; the rest brings torch.
"""
