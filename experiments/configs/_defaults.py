"""Every key of `experiments/classify.py`, with its default; configs change some."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = ml_collections.ConfigDict()
  config.name = 'classify'

  # Data: a TFDS name, or `folder:/path` of images per class.
  config.dataset = 'digits'
  config.validation = 0.1
  config.data_seed = 0
  config.augment = dict(kind='none', pad=4, padding='constant', cutout=0)

  # A class of `experiments.models`; `options` are its arguments.
  config.model = dict(name='MLP', api='linen', options={})

  # Attributes of optax. `epochs` counts when `num_steps` is 0.
  config.batch_size = 128
  config.epochs = 0
  config.num_steps = 1000
  config.optimizer = dict(name='sgd', kwargs=dict(momentum=0.9, nesterov=True))
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=0.1, decay_steps=1.0)
  )
  config.weight_decay = 0.0
  # Whether the weights that a sparse start keeps are scaled to the fan-in they have;
  # those of a posterior never are.
  config.rescale = False
  config.label_smoothing = 0.0
  config.accumulate = 1

  # `transform` names an attribute of `js.transforms`, or one of your own by a path that
  # Python can import: 'my_module.my_transform'.
  # Each method is trained once per seed; `only` names some of them: 'dense,rigl'.
  config.methods = (dict(name='dense', transform='dense'),)
  config.seeds = (0,)
  config.only = ''

  # Which weights are tested: 'final', or 'best' on validation among those that have
  # reached their sparsity.
  config.select = 'final'
  config.eval_every = 100
  config.checkpoint_every = 500
  config.keep = 2

  # How it runs: `steps_per_call` steps are one call, without a return to Python.
  # 'pmap', 'shard_map' or 'jit'; 'compact' is pmap, on nonzeros from the step on that
  # `js.compact.first_step` names: for static, SET, RigL and SSVI from the start.
  config.execution = 'pmap'
  config.steps_per_call = 1
  config.timing_rounds = 7
  return config
