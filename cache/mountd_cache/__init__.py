"""The cache library of mountd. It knows nothing of FUSE or of any remote."""
