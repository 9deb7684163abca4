"""Carries local changes to the remote: when (schedule, queue), what (uploader, body), how
(sending), and what it means for the ledger (landing)."""
