"""What a conversion tells: progress while it runs, and what it did."""
