"""The .proto sources and the modules generated from them (`scripts/protos`)."""
