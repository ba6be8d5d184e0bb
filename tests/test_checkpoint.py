import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import flat, mesh_of, tiny

from alexnet_jax import optimizer, step
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError
from alexnet_jax.schedule import make_schedule


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run" / "checkpoints"


def numbers(value):
    return {"weights": jnp.full((4, 3), value), "step": jnp.int32(value)}


def test_the_latest_two_and_the_best_stay(directory):
    with Checkpoints(directory) as checkpoints:
        errors = {1: 0.5, 2: 0.1, 3: None, 4: 0.3, 5: None, 6: None}
        for number, error in errors.items():
            checkpoints.save(number, numbers(number), error)
        checkpoints.wait()
        assert checkpoints.steps == {2: 0.1, 5: None, 6: None}
        assert checkpoints.find("best") == 2
        assert checkpoints.find("latest") == 6
        assert checkpoints.find(5) == 5
        with pytest.raises(InputError, match="no checkpoint of step 3 .* 2, 5, 6"):
            checkpoints.find(3)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps == {2: 0.1, 5: None, 6: None}
        restored = checkpoints.restore(2, numbers(0))
        np.testing.assert_array_equal(restored["weights"], np.full((4, 3), 2.0))


def test_a_validation_is_added_to_a_checkpoint_that_is_there(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(3, numbers(3))
        checkpoints.save(3, numbers(9))
        checkpoints.wait()
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 3
        checkpoints.save(3, numbers(4), 0.25)
        checkpoints.wait()
        assert checkpoints.steps == {3: 0.25}
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 4


def test_no_checkpoint_shows_how_to_make_one(directory):
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(InputError, match="alexnet_jax.main --config=NAME --workdir="),
    ):
        checkpoints.find("latest")


MODEL = tiny()
SGD = optimizer.momentum_sgd(make_schedule(steps_per_epoch=1))


@pytest.mark.slow
def test_a_state_restores_on_other_meshes(directory):
    state = step.init_state(MODEL, SGD, mesh_of(1, 2), 67, 0)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(0, state)
        checkpoints.wait()
        for shape in ((1, 1), (1, 2), (2, 1)):
            mesh = mesh_of(*shape)
            abstract = step.abstract_state(MODEL, SGD, mesh, 67)
            restored = checkpoints.restore(0, abstract)
            assert type(restored) is step.TrainState
            for name, array in flat(state._asdict()).items():
                np.testing.assert_array_equal(flat(restored._asdict())[name], array)
            kernel = restored.params["conv1"]["kernel"]
            assert kernel.sharding.mesh == mesh
            parameters = checkpoints.restore(0, {"params": abstract.params})
            assert set(parameters) == {"params"}
            np.testing.assert_array_equal(
                parameters["params"]["conv1"]["kernel"], kernel
            )


# After a failed load Orbax leaves coroutines to the collector, which then complains of
# them: here and now, and not in some later test.
@pytest.fixture
def collected():
    yield
    gc.collect()


broken_loads = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@broken_loads
@pytest.mark.usefixtures("collected")
def test_a_flipped_bit_is_never_restored_in_silence(directory):
    """Every data file of the checkpoint, a bit in the middle of each."""
    key = jax.random.key(0)
    state = {"a": jax.random.normal(key, (64, 64)), "b": jnp.arange(5.0)}
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, state, 0.5)
        checkpoints.wait()
        files = sorted(
            f for f in (directory / "1").rglob("*") if f.is_file() and f.stat().st_size
        )
        assert len(files) > 5
        refused = 0
        for file in files:
            whole_file = file.read_bytes()
            damaged = bytearray(whole_file)
            damaged[len(damaged) // 2] ^= 0x10
            file.write_bytes(damaged)
            try:
                restored = checkpoints.restore(1, state)
            except InputError as error:
                refused += 1
                assert str(directory / "1") in str(error)
                assert "\n" not in str(error)
            else:
                jax.tree.map(np.testing.assert_array_equal, restored, state)
            file.write_bytes(whole_file)
        assert refused >= 2


@broken_loads
@pytest.mark.usefixtures("collected")
def test_another_network_is_refused_in_one_line(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, numbers(1))
        checkpoints.wait()
        with pytest.raises(InputError, match="can't be read"):
            checkpoints.restore(1, {"weights": jnp.zeros((2, 2)), "step": jnp.int32(0)})
