"""Features of texts by a run, as it was trained to read them."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxcl.data import SourceConfig, Texts, Tokenizer
from jaxcl.data.parts import OneField
from jaxcl.data.text import texts_within
from jaxcl.data.tokenizer import pad_tokens
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.extras import MissingExtra
from jaxcl.training import RestoredRun, UserError
from jaxcl.training.experiment import networks_of_fields
from jaxcl.training.run_directory import RunDirectory


def text_features(
    run: RestoredRun, *, batch_size: int = 128
) -> Callable[[Sequence[str]], np.ndarray]:
    """What maps texts to features [N, F] by a run that was trained on some; of several towers,
    embeddings in their common space.

    Raises:
      UserError: if the run was trained on no texts; what is returned, if a text has no tokens.
    """
    fields = [name for name, one in run.inputs.items() if one.dtype == np.int32]
    field = next((name for name in run.experiment.views.of_each if name in fields), None)
    config = None if field is None else _texts_of(run.experiment.data, field)
    if field is None or config is None:
        raise UserError(
            f"the run was trained on {', '.join(run.inputs)}, and no text among it is of data.Texts"
        )
    networks = {of: network for of, _, network in networks_of_fields(run.experiment)}
    most = getattr(networks[field], "max_length", config.max_length)
    try:
        number = texts_within(run.experiment.data).index(config)
        own = RunDirectory(run.directory).tokenizer(number)
        tokenizer = Tokenizer.load(
            own if own.is_file() else config.tokenizer,
            max_length=min(config.max_length, most),
            too_long=config.too_long,
        )
    except (ValueError, FileNotFoundError, MissingExtra) as error:
        raise UserError(str(error)) from error
    encode = encoded_fields(run, run.state, batch_size=batch_size)

    def features(texts: Sequence[str]) -> np.ndarray:
        try:
            tokens = tokenizer(texts).texts
            return encode(OneField(field, pad_tokens(tokens)), field)
        except ValueError as error:
            raise UserError(str(error)) from error

    return features


def _texts_of(config: SourceConfig, field: str) -> Texts | None:
    """The texts of a data config that have a field, or the only ones."""
    every = texts_within(config)
    found = [texts for texts in every if field in texts.columns]
    return found[0] if found else every[0] if len(every) == 1 else None
