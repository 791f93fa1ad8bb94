"""What people call on a net who come from PyTorch or Keras, and what does it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

_PARAMS = "`net.params` and `net.states` hold the arrays by name"
_TARGET = "what runs a net is chosen when it is compiled: `concatc.compile(.., target=..)`"
_TRAIN = "`net.train_step(x=x, label=label, optimizer=concatc.SGD(lr=0.1))` trains one step"
HINTS = {
    **dict.fromkeys(("parameters", "named_parameters", "state_dict", "weights", "get_weights"), _PARAMS),
    **dict.fromkeys(("load_state_dict", "load_weights", "set_weights"), f"`net.load(path)` reads a file; {_PARAMS}"),
    "save_weights": "`net.save(path)` writes parameters and states",
    **dict.fromkeys(("to", "cuda", "cpu", "device"), _TARGET),
    "zero_grad": "every `backward()` writes gradients anew; there is nothing to clear",
    **dict.fromkeys(("fit", "train", "train_on_batch"), _TRAIN),
    "predict": "`net.eval(x=x)` runs inference",
    "summary": "`print(net.memory)` says what it takes, `concatc summary` what it is made of",
}
_CALL = "a net is not called: `net.forward(x=x)` runs it for training, `net.eval(x=x)` for inference"


class Elsewhere:
    """Answers attributes that a net does not have with those that do what is meant."""

    if not TYPE_CHECKING:  # to a type checker there are none

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"; {HINTS[name]}" if name in HINTS else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

        def __call__(self, *_: Any, **__: Any) -> NoReturn:
            raise TypeError(_CALL)
