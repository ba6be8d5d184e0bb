from typing import Any

import jax
import numpy as np
import optax

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import step

from networks import mesh_of, placed


def test_a_program_on_a_cpu_takes_the_least_memory_for_the_same_bits():
    # Of full width: in a small network the order changes little, for better or worse.
    mesh, size, examples, model = mesh_of(1, 1), 67, 4, AlexNet(num_classes=5)
    state = step.init_state(model, optax.identity(), mesh, size, 0)
    mean = np.zeros((size, size, 3), np.float32)
    rng = np.random.default_rng(0)
    host = {
        "image": rng.integers(0, 256, (examples, size, size, 3), dtype=np.uint8),
        "label": np.zeros(examples, np.int32),
        "mask": np.ones(examples, bool),
    }
    batch = placed(host, mesh)

    def memory_and_logits(options):
        evaluate: Any = step.make_eval_step(
            model, mesh, crop=size, views=1, compiler_options=options
        )
        program = evaluate.lower(state.params, batch, mean).compile()
        _, logits = evaluate(state.params, batch, mean)
        return program.memory_analysis().temp_size_in_bytes, jax.device_get(logits)

    memory, logits = memory_and_logits({})
    default = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT"}
    more, expected = memory_and_logits(default)
    assert memory < more / 2
    np.testing.assert_array_equal(logits, expected)
