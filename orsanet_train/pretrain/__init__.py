"""The backbone before a run: trained to tell people apart, as the published backbone was."""
