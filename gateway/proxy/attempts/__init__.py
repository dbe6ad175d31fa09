"""The attempts of one request: which endpoint, one attempt, its outcome, whether another follows."""
