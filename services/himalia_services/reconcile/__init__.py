"""What makes the rows true: one module per noun, and the loop that runs them."""
