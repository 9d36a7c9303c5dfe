"""What the Bayesian campaigns share: SSVI, and all that it has to be held against."""


def methods(sparsity: float, every: int = 100) -> tuple[dict, ...]:
  """Dense and sparse networks, Bayesian and not, at one sparsity.

  Args:
    sparsity: of all sparse methods, along ERK.
    every: steps between two updates of the masks.

  Returns:
    The methods. MC dropout, more weight decay and deterministic cyclic masks are among
    them: they explain much of what a Bayesian network seems to gain.
  """
  percent = f'{100 * sparsity:g}'
  rewiring = dict(
    when=dict(schedule='every', n=every, stop=0.75),
    drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75),
  )
  rigl = dict(transform='rigl', sparsity=sparsity, kwargs=rewiring)
  ssvi = dict(posterior='ssvi', sparsity=sparsity, kwargs=rewiring)
  fixed = dict(ssvi, kwargs=dict(when='never'))
  halves = dict(rigl, sparsity=1 - (1 - sparsity) / 2)
  cycles = (0.5, 0.25, 0.25)
  return (
    dict(name='dense', transform='dense'),
    dict(name='deep_ensemble', ensemble='dense', members=3),
    dict(name='mean_field', posterior='mean_field'),
    dict(rigl, name=f'rigl_{percent}'),
    dict(rigl, name=f'rigl_decay_{percent}', settings=dict(weight_decay=1e-3)),
    dict(
      rigl, name=f'mc_dropout_{percent}', settings=dict(dropout=0.2), draws='dropout'
    ),
    dict(rigl, name=f'rigl_cyclic_{percent}', cycles=cycles),
    dict(halves, name=f'rigl_half_{percent}'),
    dict(name=f'sparse_ensemble_{percent}', ensemble=f'rigl_half_{percent}', members=2),
    dict(fixed, name=f'ssvi_static_{percent}'),
    dict(ssvi, name=f'ssvi_{percent}'),
    dict(ssvi, name=f'ssvi_cyclic_{percent}', cycles=cycles),
  )
