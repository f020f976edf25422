"""Eight CPU devices for every test: set before jax is first imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax

# jax 0.10 can deadlock in a CPU collective when steps are dispatched without waiting.
jax.config.update("jax_cpu_enable_async_dispatch", False)
