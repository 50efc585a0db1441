"""EfficientZero on continuous actions cut into boxes, and FICC, which starts it from videos without actions."""
