"""What two models' activations and predictions show before any crosscoder (docs/first-look.md)."""
