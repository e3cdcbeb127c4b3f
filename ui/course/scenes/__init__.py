"""One file a scene; a file named sNN_key.py with a SCENE is all that a new one takes, NN is its place."""
