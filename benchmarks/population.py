"""Throughput of a population, trained in one program, against its members trained in turn.

    python benchmarks/population.py
    python benchmarks/population.py --members 16 --widths 128 64

SimCLR of a perceptron on scikit-learn's digits. Steps are timed with batches on the device
already: compilation, reading and logging are left out of both. Of each round the ratio is taken;
printed are the median of the rounds, the lowest and the highest.
"""

import argparse
import json
import statistics
import time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 32], help="of the perceptron")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="timed of each member in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON document, no text")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    document = measure(arguments)
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    print(
        f"{document['members']} members, perceptron {arguments.widths}, batch "
        f"{arguments.batch_size}; {document['device']}, jax {document['jax']}"
    )
    for name in ("in turn", "population"):
        rates = document[name]
        print(
            f"{name:>10}: {statistics.median(rates):10,.0f} examples/s of all members "
            f"({min(rates):,.0f} to {max(rates):,.0f})"
        )
    ratios = document["ratio"]
    print(f"     ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def measure(arguments: argparse.Namespace) -> dict:
    import jax
    import numpy as np

    from jaxcl import augment, data, encoders, methods, training
    from jaxcl.training.population import PopulationSetup

    experiment = training.Experiment(
        data=data.Digits(),
        views=augment.crops(8),
        method=methods.SimCLR(encoders.MLP(tuple(arguments.widths)), temperature=0.2),
        train=training.Train(batch_size=arguments.batch_size, epochs=50),
        run=training.Run(devices=1),
    )
    values = tuple(np.linspace(0.1, 0.5, arguments.members).round(3).tolist())
    population = training.Population(experiment, "method.temperature", values)
    together = PopulationSetup(population)
    alone = [training.set_up(member) for member in population.members]
    source = experiment.data.open()
    batch = data.batch_at(source, 0, batch_size=arguments.batch_size, seed=0)
    batch = {name: value for name, value in batch.items() if name != "replaced"}

    states = [setup.start() for setup in alone]
    placed = [setup.devices.split(batch) for setup in alone]
    everyone, everyones_batch = together.start(), together.place(batch)

    def in_turn(steps: int) -> None:
        for number, setup in enumerate(alone):
            for _ in range(steps):
                states[number], metrics = setup.step(states[number], placed[number])
            jax.block_until_ready(metrics)

    def in_one(steps: int) -> None:
        nonlocal everyone
        for _ in range(steps):
            everyone, metrics = together.step(everyone, everyones_batch)
        jax.block_until_ready(metrics)

    in_turn(2)
    in_one(2)
    examples = arguments.members * arguments.batch_size * arguments.steps
    rates: dict[str, list[float]] = {"in turn": [], "population": []}
    for _ in range(arguments.rounds):
        for name, run in (("in turn", in_turn), ("population", in_one)):
            start = time.perf_counter()
            run(arguments.steps)
            rates[name].append(examples / (time.perf_counter() - start))
    ratio = [b / a for a, b in zip(rates["in turn"], rates["population"], strict=True)]
    return {
        "members": arguments.members,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        **rates,
        "ratio": ratio,
    }


if __name__ == "__main__":
    main()
