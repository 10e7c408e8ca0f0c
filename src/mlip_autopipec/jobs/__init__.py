"""One module per step of the loop: unpack, call the physics, pack a document."""
