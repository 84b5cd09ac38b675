"""Operators that draw random numbers. All of them use the Philox generator of `philox`."""
