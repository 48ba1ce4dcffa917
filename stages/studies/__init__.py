"""Studies of why filtering does not pay. Each stage is a module with a function `main`."""
