"""SimCSE without labels, from scratch: verses and glosses, views of which lack words and dropout.

Dropout alone, as in the paper, is for encoders that know language already (`simcse_minilm.py`).

`python benchmarks/text_data.py ...` writes the files.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

FOLDER = "data/text"
TOKENIZER = f"{FOLDER}/english.json"


def measured(tokenizer: str, longest: int = 64) -> tuple[training.Task, ...]:
    """Paraphrases of verses in books never seen, and people's scores of pairs of words and of
    documents, these of up to `longest` tokens."""
    verses = data.Texts(
        f"{FOLDER}/verses_held_out.tsv", tokenizer, ("king_james", "world_english"), max_length=64
    )
    pairs = {
        name: data.Texts(f"{FOLDER}/{name}.tsv", tokenizer, ("first", "second"), max_length=longest)
        for name in ("simlex", "wordsim", "lee")
    }
    return (
        tasks.Retrieval("paraphrases", verses, "king_james", "world_english", centre=True),
        tasks.Similarity("SimLex", pairs["simlex"], "score"),
        tasks.Similarity("WordSim", pairs["wordsim"], "score"),
        tasks.Similarity("Lee", pairs["lee"], "score"),
    )


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Texts(f"{FOLDER}/sentences.txt", TOKENIZER, max_length=64),
        views=augment.texts(delete=0.4),
        method=methods.SimCSE(
            encoders.bert(8000, width=128, depth=1, heads=4, max_length=64), temperature=0.05
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=0.1),
        train=training.Train(batch_size=256, epochs=0.4, apart=True),
        run=training.Run(devices=1),
        tasks=measured(TOKENIZER),
    )
