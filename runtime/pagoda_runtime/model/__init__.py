"""From a model directory to a decoder: read the shape, load the weights, run the layers."""
