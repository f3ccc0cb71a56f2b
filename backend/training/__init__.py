"""Training on accelerate: one step a network, one loop for all."""
