"""Training and quality of the embedded default's networks, on synthetic faces with exact truth."""
