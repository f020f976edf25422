"""SimCSE without labels, from scratch: verses and glosses, and dropout as the only augmentation.

`python benchmarks/text_data.py ...` writes the files.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

FOLDER = "data/text"
TOKENIZER = f"{FOLDER}/english.json"


def measured(tokenizer: str) -> tuple[training.Task, ...]:
    """Paraphrases of verses in books never seen, and people's scores of word pairs."""
    verses = data.Texts(
        f"{FOLDER}/verses_held_out.tsv", tokenizer, ("king_james", "world_english"), max_length=64
    )
    pairs = {
        name: data.Texts(f"{FOLDER}/{name}.tsv", tokenizer, ("first", "second"))
        for name in ("simlex", "wordsim")
    }
    return (
        tasks.Retrieval("paraphrases", verses, "king_james", "world_english"),
        tasks.Similarity("SimLex", pairs["simlex"], "score"),
        tasks.Similarity("WordSim", pairs["wordsim"], "score"),
    )


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Texts(f"{FOLDER}/sentences.txt", TOKENIZER, max_length=64),
        views=augment.texts(),
        method=methods.SimCSE(
            encoders.bert(8000, width=128, depth=2, heads=4, max_length=64), temperature=0.05
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=0.1),
        train=training.Train(batch_size=128, epochs=1, apart=True),
        run=training.Run(devices=1),
        tasks=measured(TOKENIZER),
    )
