"""How good a model is: the multi-view test, validation while training, probes."""
