"""NVIDIA's GPUs: what XLA's compiler has described of each, and their data sheets."""

import dataclasses

from alexnet_jax.targets.target import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(Target):
    """A GPU as XLA's compiler has it described, and what its data sheet promises.

    Attributes:
      capability: compute capability.
      processors: streaming multiprocessors.
      lanes: float32 units of each.
      threads: that a processor holds at once.
      shared: bytes of shared memory of a processor.
      shared_by_block: the most of it that a block can ask for.
      cache: bytes of the second cache.
      gigahertz: of its clock, boosted.
    """

    capability: tuple[int, int]
    processors: int
    lanes: int
    threads: int
    shared: int
    shared_by_block: int
    cache: int
    gigahertz: float
    platform: str = "cuda"
    share: float = 0.75
    because: str = "JAX takes no more by default (XLA_PYTHON_CLIENT_MEM_FRACTION)"
    # Values that one instruction of the units contracts in bfloat16, and its outputs.
    unit: tuple[int, int] = (16, 8)
    contracts_taps: bool = False

    def described(self) -> str:
        """The description that XLA's CUDA compiler takes (`GpuTargetConfigProto`)."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared}
  threads_per_core_limit: {self.threads}
  core_count: {self.processors}
  fpus_per_core: {self.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(self.bandwidth)}
  l2_cache_size: {self.cache}
  clock_rate_ghz: {self.gigahertz}
  device_memory_size: {self.memory}
  shared_memory_per_block_optin: {self.shared_by_block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{self.name}"
"""


# From NVIDIA's data sheets and CUDA's device queries; float32 is TF32, where a card has
# it.
CARDS = {
    "h100": Card(
        name="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        processors=132,
        lanes=128,
        threads=2048,
        shared=233472,
        shared_by_block=232448,
        cache=52428800,
        gigahertz=1.98,
        memory=84942979072,
        bandwidth=3.352e12,
        bfloat16=989e12,
        float32=495e12,
    ),
    "a100": Card(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        processors=108,
        lanes=64,
        threads=2048,
        shared=167936,
        shared_by_block=166912,
        cache=41943040,
        gigahertz=1.41,
        memory=84987740160,
        bandwidth=2.039e12,
        bfloat16=312e12,
        float32=156e12,
    ),
    "l4": Card(
        name="NVIDIA L4",
        capability=(8, 9),
        processors=58,
        lanes=128,
        threads=1536,
        shared=102400,
        shared_by_block=101376,
        cache=50331648,
        gigahertz=2.04,
        memory=23600000000,
        bandwidth=0.3e12,
        bfloat16=121e12,
        float32=60e12,
    ),
    # No units for bfloat16 and no TF32.
    "t4": Card(
        name="Tesla T4",
        capability=(7, 5),
        processors=40,
        lanes=64,
        threads=1024,
        shared=65536,
        shared_by_block=65536,
        cache=4194304,
        gigahertz=1.59,
        memory=15800000000,
        bandwidth=0.32e12,
        bfloat16=8.1e12,
        float32=8.1e12,
    ),
}
