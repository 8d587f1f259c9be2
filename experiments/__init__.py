"""Results and the commands that produce them."""

import os

# TensorFlow only writes event files here; its startup messages are noise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
