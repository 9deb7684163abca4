"""Carries local changes to the remote: when (schedule), what (body), how (uploader), and what it
means for the ledger (landing)."""
