"""One operation, several engines: ``observe`` a batch, ``apply`` a context."""
