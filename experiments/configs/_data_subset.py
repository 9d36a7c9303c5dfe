"""What the campaigns on parts of the data share: the ways to choose, and their ratios."""

RATIOS = (0.01, 0.05, 0.1, 0.3)
_SELECT = (
  'least_confidence',
  'entropy',
  'margin',
  'el2n',
  'grand_last_layer',
  'forgetting',
  'cal',
  'herding',
  'k_center_greedy',
  'craig',
  'gradmatch',
  'glister',
  'facility_location',
  'graph_cut',
  'ssp_prototypes',
  'moderate',
  'ccs',
)


def methods(ratio: float) -> tuple[dict, ...]:
  """RS2, and what it has to be held against, at one ratio; named `<way>_<percent>`."""
  percent = f'{100 * ratio:g}'
  dense = lambda way, plan, **kwargs: dict(
    name=f'{way}_{percent}',
    plan=plan,
    ratio=ratio,
    plan_kwargs=kwargs,
    transform='dense',
  )
  return (
    dense('rs2', 'rs2'),
    dense('rs2_replacement', 'rs2', replacement=True),
    dense('rs2_replacement_stratified', 'rs2', replacement=True, stratified=True),
    dense('rs2_stratified', 'rs2', stratified=True),
    dense('short_full', 'short_full'),
    dense('iid', 'iid'),
    dense('static_subset', 'static_subset'),
  )


def sparse_methods(ratio: float, every: int, sparsity: float = 0.9) -> tuple[dict, ...]:
  """Sparse and Bayesian networks on subsets, and on the short full schedule.

  Args:
    ratio: the share of the data in a round.
    every: steps between two updates of the masks.
    sparsity: of the networks.
  """
  percent = f'{100 * ratio:g}'
  rewiring = dict(
    when=dict(schedule='every', n=every, stop=0.75),
    drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75),
  )
  shared = dict(ratio=ratio, sparsity=sparsity, kwargs=rewiring)
  kinds = dict(rigl=dict(transform='rigl'), ssvi=dict(posterior='ssvi'))
  return tuple(
    dict(shared, name=f'{plan}_{kind}_{percent}', plan=plan, **made)
    for kind, made in kinds.items()
    for plan in ('rs2', 'short_full', 'static_subset')
  )


def all_data() -> dict:
  """Training on all data for as many epochs as the others have rounds."""
  return dict(name='full', plan='full', transform='dense')


def coresets(ratio: float) -> tuple[dict, ...]:
  """Fixed subsets that one proxy network per seed chooses, at one ratio."""
  return tuple(
    dict(
      name=f'{select}_{100 * ratio:g}', plan='coreset', select=select, ratio=ratio,
      transform='dense',
    )
    for select in _SELECT
  )  # fmt: skip


def by_score(ratio: float) -> tuple[dict, ...]:
  """Draws from all data by what one proxy network per seed says, at one ratio.

  Importance sampling by the error |softmax - onehot| of each record, with weights that
  leave the mean loss unbiased; half of the draws are uniform, so that no weight exceeds
  2: PA&DA moves that share from 1 to 0 over its run. A curriculum from the records of
  each class with the widest margins in training, a fifth of them at first, to all at half
  of the run.
  """
  percent = f'{100 * ratio:g}'
  shared = dict(ratio=ratio, transform='dense')
  return (
    dict(
      shared, name=f'importance_{percent}', plan='importance', score='el2n',
      plan_kwargs=dict(floor=0.5),
    ),
    dict(
      shared, name=f'curriculum_{percent}', plan='curriculum', score='aum',
      plan_kwargs=dict(start=0.2, stop=0.5, stratified=True),
    ),
  )  # fmt: skip


def ratios_of(argument: str, all_ratios=RATIOS) -> tuple[float, ...]:
  """The ratios that the argument of a config file names: 'all', or one in (0, 1]."""
  if argument == 'all':
    return all_ratios
  try:
    value = float(argument)
  except ValueError:
    value = 0.0
  if not 0 < value <= 1:
    raise ValueError(f"config argument: got {argument!r}, wanted 'all' or a ratio.")
  return (value,)
