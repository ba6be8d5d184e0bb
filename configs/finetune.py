"""A trained network, fine-tuned on a small folder of images.

Reproduces: nothing published. The learning rate falls along a cosine. The rate, the
batch, the epochs and how often it validates follow from the number of training images
(`train.recipe`, alexnet_jax/training/recipes.py); the first lines of a run say what was
set. What you set yourself is left as it is, and the rate follows your batch.

Command:    python -m alexnet_jax.main --config=finetune --workdir=mine
                --config.data.path=IMAGES --config.train.init_from=RUN
            where IMAGES has CLASS folders, directly or under train and validation, and
            RUN is a work directory or the name of imported weights.
Variants:   the network of RUN: :code2012 (default), :paper, :conv6, :caffe, :caffenet,
            :owt (torchvision's)
Hardware:   any.
Time:       each image is seen 60 times where there are 100, 8 times where there are
            5,000.
Expected:   measured on photographs of five classes, 20 images of each: 46 % error, 52 %
            with --config=folder, 70 % without RUN; 100 of each: 35 %, as with
            --config=folder, which sees three times as many (experiments/finetuning/).
            Published weights have not been tried.
"""

from ml_collections import ConfigDict, config_dict

from alexnet_jax import preset_config


VARIANTS = ("code2012", "paper", "conv6", "caffe", "caffenet", "owt")


def get_config(variant: str = "code2012") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = preset_config(variant)
    config.data.source = "folder"
    if variant == "owt":
        # Its publisher divides pixels by their deviations, which lie in conv1's kernels
        # here: a step would move those (255 * 0.226) ** 2 = 3,300 times as far.
        config.schedule.layer_rates = {"conv1": 0.0003}
    config.schedule.kind = "cosine"
    config.train.recipe = "finetune"
    # The recipe sets what is None.
    config.train.batch_size = config_dict.placeholder(int)
    config.schedule.learning_rate = config_dict.placeholder(float)
    return config
