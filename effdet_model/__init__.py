"""EfficientDet in PyTorch on timm backbones: config, model, anchors, preprocessing, postprocessing."""

from effdet_model.config import EfficientDetConfig
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from effdet_model.factory import create_model
from effdet_model.variants import get_config, list_variants

__all__ = ["EfficientDet", "EfficientDetConfig", "InputError", "create_model", "get_config", "list_variants"]
