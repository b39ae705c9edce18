"""These tests need timm and the torchvision that fits torch: `make test-vision`."""
