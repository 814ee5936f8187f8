"""Other people's frameworks: scikit-learn, Lightning, torchmetrics, onnxruntime, torchao.

Each is imported when it is asked for.
"""
