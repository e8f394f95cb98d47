"""Load a network from a scripted or an ONNX model, to be called with numpy arrays.

Workers of TorchServe, which import torch anyway, run scripted models; a reader without torch runs ONNX models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # gray images [N,1,64,64] in 0..1 -> logits [N,classes]


def load_network(path: Path) -> Network:
    """Load an ONNX model if the file's suffix is .onnx, else a scripted model; it runs in the calling thread alone."""
    return _load_onnx(path) if path.suffix == ".onnx" else _load_scripted(path)


def _load_onnx(path: Path) -> Network:
    import onnxruntime  # here: TorchServe's workers do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _load_scripted(path: Path) -> Network:
    """Load and freeze a scripted model.

    The default model's weights of three equal channels are summed; the other networks use one channel themselves.
    """
    import torch  # here: a reader of ONNX models does without

    model = torch.jit.load(str(path), map_location="cpu").eval()
    if hasattr(model, "conv1"):
        model.conv1.weight.data = model.conv1.weight.data.sum(1, keepdim=True)
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(model))

    def compute_logits(images: NDArray[np.float32]) -> Any:
        with torch.inference_mode():
            return frozen(torch.from_numpy(images)).numpy()

    return compute_logits
