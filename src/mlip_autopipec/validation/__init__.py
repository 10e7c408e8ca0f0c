"""What a potential is compared with: criteria, and properties of crystals."""
