"""Reading the world back out of activations. Each analysis is a function of arrays and works on anyone's."""
