"""Losses as layers: each holds its settings and calls the function of torch's name. One row a loss."""

from __future__ import annotations

from typing import Any

from headrace.nn import functional as F
from headrace.nn.module import Module
from headrace.tensors import Tensor


class _Loss(Module):
    """`call` is the function, `settings` its keywords with defaults; tensors among them become buffers."""

    call = ""
    settings: dict[str, Any] = {}
    order: tuple[str, ...] = ()  # positional order of the settings, after torch's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        names = (
            [*self.order, "size_average", "reduce", "reduction"]
            if not self.order or "reduction" not in self.order
            else list(self.order)
        )
        given = dict(zip(names, args))
        for key, value in kwargs.items():
            if key not in self.settings and key not in ("size_average", "reduce", "reduction"):
                raise TypeError(
                    f"{type(self).__name__} has no setting {key!r}; allowed: {', '.join(self.settings)}, reduction"
                )
            given[key] = value
        if given.pop("size_average", None) is not None or given.pop("reduce", None) is not None:
            raise TypeError("size_average and reduce are deprecated; give reduction='mean', 'sum' or 'none'")
        given.pop("reduce", None)
        self.reduction = given.get("reduction", "mean")
        for key, default in self.settings.items():
            value = given.get(key, default)
            if key in ("weight", "pos_weight"):
                self.register_buffer(key, value)
            else:
                setattr(self, key, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        keywords = {key: getattr(self, key) for key in self.settings}
        return getattr(F, self.call)(*inputs, reduction=self.reduction, **keywords)


def _loss(name: str, call: str, order: tuple[str, ...] = (), **settings: Any) -> None:
    body = {
        "call": call,
        "settings": settings,
        "order": order or tuple(settings),
        "__doc__": f"F.{call} as a layer.",
        "__module__": __name__,
    }
    globals()[name] = type(name, (_Loss,), body)
    __all__.append(name)


__all__: list[str] = []
_AFTER_WEIGHT = ("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")
_loss("MSELoss", "mse_loss")
_loss("L1Loss", "l1_loss")
_loss("SmoothL1Loss", "smooth_l1_loss", ("size_average", "reduce", "reduction", "beta"), beta=1.0)
_loss("HuberLoss", "huber_loss", ("reduction", "delta"), delta=1.0)
_loss("BCELoss", "binary_cross_entropy", weight=None)
_loss(
    "BCEWithLogitsLoss",
    "binary_cross_entropy_with_logits",
    ("weight", "size_average", "reduce", "reduction", "pos_weight"),
    weight=None,
    pos_weight=None,
)
_loss("NLLLoss", "nll_loss", _AFTER_WEIGHT[:-1], weight=None, ignore_index=-100)
_loss("CrossEntropyLoss", "cross_entropy", _AFTER_WEIGHT, weight=None, ignore_index=-100, label_smoothing=0.0)
_loss("KLDivLoss", "kl_div", ("size_average", "reduce", "reduction", "log_target"), log_target=False)
_loss(
    "PoissonNLLLoss",
    "poisson_nll_loss",
    ("log_input", "full", "size_average", "eps", "reduce", "reduction"),
    log_input=True,
    full=False,
    eps=1e-8,
)
_loss("GaussianNLLLoss", "gaussian_nll_loss", ("full", "eps", "reduction"), full=False, eps=1e-6)
_loss("CosineEmbeddingLoss", "cosine_embedding_loss", margin=0.0)
_loss("HingeEmbeddingLoss", "hinge_embedding_loss", margin=1.0)
_loss("MarginRankingLoss", "margin_ranking_loss", margin=0.0)
_loss("SoftMarginLoss", "soft_margin_loss")
_loss("MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss", weight=None)
_loss(
    "TripletMarginLoss",
    "triplet_margin_loss",
    ("margin", "p", "eps", "swap", "size_average", "reduce", "reduction"),
    margin=1.0,
    p=2.0,
    eps=1e-6,
    swap=False,
)
_loss("CTCLoss", "ctc_loss", ("blank", "reduction", "zero_infinity"), blank=0, zero_infinity=False)
