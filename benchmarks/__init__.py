"""What this project claims of speed, measured. Run from the checkout: python -m benchmarks.NAME."""
