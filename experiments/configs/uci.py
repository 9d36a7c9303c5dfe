r"""The UCI regression sets, by name; without one scikit-learn's diabetes.

    python -m experiments.bayesian --config=experiments/configs/uci.py:yacht \
        --data_dir=ARCHIVE --workdir=runs/uci

ARCHIVE is the `.tar.gz` of the sets with their 20 standard splits (5 of `protein`), or the
folder that it unpacks to. `:all` trains the nine one after the other.
"""

from experiments.configs import _regression_defaults

_NINE = (
  'boston', 'concrete', 'energy', 'kin8nm', 'naval', 'power', 'protein', 'wine', 'yacht',
)  # fmt: skip
_LARGE = ('kin8nm', 'naval', 'power', 'protein')
_DECAYS = dict(weight_decay=(1e-5, 1e-3, 1e-2, 3e-2, 1e-1))
_TEMPERATURES = dict(temperature=(0.03, 0.1, 0.3, 1.0))


def _methods():
  rewiring = dict(
    when=dict(schedule='every', n=100, stop=0.75),
    drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75),
  )
  dense = dict(name='dense', transform='dense', choose=_DECAYS)
  yield dense
  yield dict(dense, name='deep_ensemble', members=5)
  rates = dict(dropout=(0.005, 0.01, 0.05, 0.1, 0.2))
  yield dict(dense, name='mc_dropout', draws='dropout', choose=rates)
  yield dict(name='mean_field', posterior='mean_field', choose=_TEMPERATURES)
  for sparsity in (0.5, 0.8, 0.9):
    percent = f'{100 * sparsity:g}'
    sparse = dict(sparsity=sparsity, kwargs=rewiring)
    if sparsity == 0.9:
      # Elsewhere that leaves fewer weights than the network has units.
      sparse['sets'] = ('naval', 'protein')
    yield dict(sparse, name=f'rigl_{percent}', transform='rigl', choose=_DECAYS)
    ssvi = dict(sparse, posterior='ssvi', choose=_TEMPERATURES)
    yield dict(ssvi, name=f'ssvi_static_{percent}', kwargs=dict(when='never'))
    yield dict(ssvi, name=f'ssvi_{percent}')


def get_config(argument='diabetes'):
  config = _regression_defaults.get_config()
  config.name = f'uci_{argument}'
  config.datasets = _NINE if argument == 'all' else (argument,)
  config.methods = tuple(_methods())
  config.num_steps = 4000
  config.sets = {name: dict(num_steps=10000) for name in _LARGE}
  config.sets['protein'].model = dict(features=(100,), heteroscedastic=False)
  return config
