"""Other people's frameworks: scikit-learn, Lightning, torchmetrics, imported when asked for."""
