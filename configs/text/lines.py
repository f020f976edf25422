"""SimCSE on your own sentences, one a line, of which `jaxcl tokenizer` makes the tokenizer.

`--data.path lines.txt --data.tokenizer tokenizer.json` say where they are.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Texts("lines.txt", "tokenizer.json", max_length=64),
        views=augment.texts(),
        method=methods.SimCSE(encoders.bert(8000, width=128, depth=2, heads=4, max_length=64)),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        train=training.Train(batch_size=128, epochs=1, apart=True),
    )
