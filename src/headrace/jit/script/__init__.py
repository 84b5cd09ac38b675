"""The compiler of jit.script: Python source to graphs with If and Loop."""
