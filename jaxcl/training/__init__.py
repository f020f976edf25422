"""Training: an experiment as data, one step over all devices, and a run that survives stops."""

from jaxcl.training.checkpoints import CheckpointError, Checkpoints, Restored
from jaxcl.training.config_json import differences, from_data, to_data
from jaxcl.training.devices import AXIS, DeviceMap, check_batch_size, choose_devices
from jaxcl.training.errors import DivergedError, UserError
from jaxcl.training.experiment import (
    Evaluate,
    Experiment,
    FieldFeatures,
    Probe,
    Run,
    Start,
    Task,
    Train,
    Transfer,
)
from jaxcl.training.loop import Outcome, train
from jaxcl.training.observers import read_metrics
from jaxcl.training.optimizers import LARS, SGD, AdamW, Optimizer, Schedule
from jaxcl.training.population import Population
from jaxcl.training.population_loop import PopulationDirectory, PopulationOutcome, train_population
from jaxcl.training.restoring import (
    RestoredRun,
    restore_run,
    start_state,
    state_shapes,
    view_shapes,
)
from jaxcl.training.run_directory import RunDirectory, free_directory
from jaxcl.training.setup import Setup, set_up
from jaxcl.training.state import TrainState, init_state
from jaxcl.training.step import make_step

__all__ = [
    "AXIS",
    "LARS",
    "SGD",
    "AdamW",
    "CheckpointError",
    "Checkpoints",
    "DeviceMap",
    "DivergedError",
    "Evaluate",
    "Experiment",
    "FieldFeatures",
    "Optimizer",
    "Outcome",
    "Population",
    "PopulationDirectory",
    "PopulationOutcome",
    "Probe",
    "Restored",
    "RestoredRun",
    "Run",
    "RunDirectory",
    "Schedule",
    "Setup",
    "Start",
    "Task",
    "Train",
    "TrainState",
    "Transfer",
    "UserError",
    "check_batch_size",
    "choose_devices",
    "differences",
    "free_directory",
    "from_data",
    "init_state",
    "make_step",
    "read_metrics",
    "restore_run",
    "set_up",
    "start_state",
    "state_shapes",
    "to_data",
    "train",
    "train_population",
    "view_shapes",
]
