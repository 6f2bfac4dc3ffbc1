"""Studies of mixtures of experts on the embedded corpus; docs/experts-evidence.md tells what they found."""
