"""tensorflow-datasets without TensorFlow: sets stored as array_record."""
