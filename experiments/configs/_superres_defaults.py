"""Every key of `experiments/superres.py`, with its default; configs change some."""

import ml_collections

# The share of a run before soft methods have a hard mask; the learning rate waits.
PRUNING = 1 / 3


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = ml_collections.ConfigDict()
  config.name = 'superres'

  # Folders in --data_dir or with their whole path, or photographs that scikit-learn
  # ships; the last `validation` training images are for progress only. Images of low
  # resolution are made from those of high resolution.
  config.scale = 2
  config.train = ('sample:china',)
  config.tests = dict(flower='sample:flower')
  config.validation = 0
  # 'rgb', or 'y' for a network that sees luma only.
  config.color = 'rgb'
  # Sides of a training patch, at low resolution.
  config.patch = 24
  config.mirror = True

  # A class of `experiments.models` that takes a scale; `options` are its arguments.
  config.model = dict(name='EDSR', options=dict(features=16, blocks=4))

  # Attributes of optax; the learning rate has its first value for `hold`.
  config.batch_size = 16
  config.num_steps = 1000
  config.loss = 'l1'
  config.optimizer = dict(name='adam', kwargs=dict(b1=0.9, b2=0.99))
  config.learning_rate = dict(
    name='cosine_decay_schedule',
    kwargs=dict(init_value=1e-3, decay_steps=1.0),
    hold=PRUNING,
  )
  config.weight_decay = 0.0
  config.accumulate = 1

  # Each method is trained once per seed; `only` names some of them: 'dense,iss_p_95'.
  config.methods = (dict(name='dense', transform='dense'),)
  config.seeds = (0,)
  config.only = ''

  config.eval_every = 200
  config.checkpoint_every = 500
  config.keep = 1
  # 'pmap', 'shard_map' or 'jit'; 'compact' is pmap, on nonzeros from the step on that
  # `js.compact.first_step` names: for static, SET and RigL from the start.
  config.execution = 'pmap'
  # Steps per call, without a return to Python: for a GPU, that else waits. In a loop XLA
  # compiles convolutions to slow code for a CPU.
  config.steps_per_call = 1
  config.timing_rounds = 3
  # Sides of the crops that the report shows, at high resolution; so many test images.
  config.crop = 64
  config.num_crops = 3
  return config


def methods(sparsity: float, pruning: float = PRUNING) -> tuple[dict, ...]:
  """The ways to a network of one sparsity, named `<way>_<percent>`.

  All remove the same share of every layer, so that they differ in nothing but how they
  find their weights.

  Args:
    sparsity: of all.
    pruning: the fraction of the run after which those prune that prune on the way.
  """
  percent = f'{100 * sparsity:g}'
  named = lambda way, transform, **kwargs: dict(
    name=f'{way}_{percent}', transform=transform, sparsity=sparsity, kwargs=kwargs
  )
  soft = dict(num_pruning_steps=pruning)
  rewire = dict(
    when=dict(schedule='every', n=100, stop=0.75),
    drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75),
  )
  return (
    dict(name=f'small_dense_{percent}', transform='small_dense', sparsity=sparsity),
    named('scratch', 'static', distribution='uniform'),
    named('one_shot', 'one_shot', step=pruning),
    named('iss_p', 'iss_p', **soft),
    named('iss_r', 'iss_r', **soft),
    named('greg', 'greg', start=pruning / 3, **soft),
    named('iht', 'iss_p', alpha=0.0, **soft),
    named('rigl', 'rigl', distribution='uniform', **rewire),
  )
