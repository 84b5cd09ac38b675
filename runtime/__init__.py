"""Graph, operators, passes, plan, executor, kernels."""
