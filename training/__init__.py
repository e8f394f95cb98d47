"""Training of the digit model: data, model, loop, export, prediction."""
