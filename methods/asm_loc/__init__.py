"""ASM-Loc: settings.py, network.py, segments.py, and method.py, which uses all three."""
