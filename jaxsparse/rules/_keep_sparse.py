"""The one wrapper that makes an optax optimizer keep a network sparse."""

import functools
import os
import warnings

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core
from jaxsparse.rules import _fits, _moments, _parts


def spread(rule: core.MaskRule, masks, params):
  """Repeats the masks of one field over all fields of the params.

  Args:
    rule: says what the fields are.
    masks: a tree with the treedef of one field, of masks or of other nodes.
    params: the whole parameters.

  Returns:
    A tree like `params`; a scalar True for leaves of no field, and for a scalar in the
    place of an array: a field where it has no value for that leaf.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> rule = js.core.MaskRule(init=None, fields=lambda params: params)
    >>> params = {'w': jnp.ones(2)}, {'w': jnp.zeros(2)}
    >>> masks = {'w': jnp.array([True, False])}
    >>> [m['w'].tolist() for m in js.rules.spread(rule, masks, params)]
    [[True, False], [True, False]]
  """
  treedef = jax.tree.structure(params)
  # Fields are found by position: their trees are asked for with indices in place.
  index = treedef.unflatten(list(range(treedef.num_leaves)))
  full = [None] * treedef.num_leaves
  shapes = [jnp.shape(p) for p in jax.tree.leaves(params)]
  for field in rule.fields(index):
    # A node in the place of a leaf stays whole: in compact training it is a pattern.
    nodes = jax.tree.structure(field).flatten_up_to(masks)
    for i, mask in zip(jax.tree.leaves(field), nodes, strict=True):
      full[i] = mask if shapes[i] else None
  return treedef.unflatten([jnp.ones((), bool) if m is None else m for m in full])


def keep_sparse(
  inner: optax.GradientTransformation,
  rule: core.MaskRule,
  when: core.When | None = None,
  *,
  seed=None,
  skip_step: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Wraps an optimizer so that its parameters stay sparse under a rule.

  For every weight off the mask the update is `-param`, so that
  `optax.apply_updates` leaves exactly 0 there. One update does, in this order: when
  `when(step)`, the rule decides on new masks, under the only `lax.cond`; what did not
  stay active gets a gradient of 0 and fresh moments; the inner optimizer steps,
  always; grown weights get their starting value; what is off the mask is removed.

  It must be the last to touch the update: scaling its output leaves weights off the
  mask. The second update and every one that decides look for that and report it with a
  `RuntimeWarning`. The report is a host callback: it costs 0.3 to 2 ms a call, because
  jax dispatches such a program from Python, and keeps the program out of the persistent
  compilation cache. The environment variable `JAXSPARSE_CHECK=off` removes it.

  Args:
    inner: any optax optimizer, the whole chain.
    rule: the method.
    when: `step -> bool`, steps counted from 0; None for never.
    seed: int, integer tracer or typed key, for rules that draw.
    skip_step: whether an update of the masks replaces the optimizer's step: then
      kept weights and their moments stay as they were, while step counts advance. It
      costs copies of the moments in every step.

  Returns:
    An optax transformation with state `KeepSparseState`; extra arguments reach
    the inner optimizer.

  Raises:
    ValueError: an `inner` or a `when` that is none; `update` without params.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> masks = {'kernel': jnp.array([[True, False]])}
    >>> rule = js.core.MaskRule(init=lambda evidence: (masks, None))
    >>> tx = js.keep_sparse(optax.sgd(0.1), rule)
    >>> params, state = js.init(tx, {'kernel': jnp.ones((1, 2))})
    >>> updates, state = tx.update({'kernel': jnp.ones((1, 2))}, state, params)
    >>> optax.apply_updates(params, updates)['kernel'].tolist()
    [[0.8999999761581421, 0.0]]
  """
  if not hasattr(inner, 'update'):
    raise ValueError(f'inner={inner!r}: wanted an optax transformation.')
  if when is not None and not callable(when):
    raise ValueError(
      f'when={when!r}: wanted a function step -> bool such as js.schedules.every(100).'
    )
  inner = optax.with_extra_args_support(inner)

  def init(params):
    # A folded key is a new array: the state may be donated, the seed is the user's.
    key = None if seed is None else jax.random.fold_in(core.as_key(seed), 0)
    start = jnp.zeros((), jnp.int32)
    evidence = core.Evidence(rule.fields(params), None, None, None, start, key)
    masks, memory = rule.init(evidence)
    kept = jax.tree.map(
      lambda m, p: jnp.where(m, p, jnp.zeros_like(p)),
      spread(rule, masks, params),
      params,
    )
    # Some optimizers keep a copy of the params, which must be masked as they are.
    inner_state = inner.init(rule.inner_params(kept, memory))
    return core.KeepSparseState(start, masks, memory, inner_state, key)

  def update(grads, state, params=None, **extra_args):
    if params is None:
      raise ValueError('keep_sparse: update(grads, state, params) needs params.')
    _fits.check(grads, params, rule.fields(params)[0], state.masks)
    # None is known while tracing: masks that never change compile no decision.
    due = None if when is None or rule.update is None else when(state.step)
    old = spread(rule, state.masks, params)
    trained = rule.inner_params(params, state.memory)
    evidence = _evidence(rule, state, trained, grads)
    if rule.observe is not None:
      state = state._replace(memory=rule.observe(evidence, state.memory))

    def step_inner(grads, masks, inner_state, trained):
      edited = rule.edit_grads(grads, trained, masks, state.memory)
      return inner.update(edited, inner_state, trained, **extra_args)

    def look_ahead():
      # Computed anew inside the cond: as an operand it would have to be stored in
      # every step, also in those that decide nothing.
      updates, _ = step_inner(grads, old, state.inner_state, trained)
      return rule.fields(optax.apply_updates(trained, updates))

    check = _off_mask_check(params, old, state.step)
    decision = _decide(rule, due, state, evidence, look_ahead, check)
    new, value, kept, inner_state = _start_grown(
      rule, inner, decision, params, old, evidence, state.inner_state
    )
    if value is not None:
      # Decay, and copies of the params in the state, see grown weights at their start.
      trained = jax.tree.map(jnp.where, kept, trained, value)
    updates, stepped = step_inner(grads, kept, inner_state, trained)
    if skip_step and due is not None:
      updates = jax.tree.map(lambda u: jnp.where(due, jnp.zeros_like(u), u), updates)
      stepped = _moments.hold(inner, trained, inner_state, stepped, due)
    updates, memory = rule.edit_updates(updates, params, new, decision.memory)
    if value is None:
      updates = jax.tree.map(_remove, new, updates, params)
    else:
      updates = jax.tree.map(_start_or_remove, kept, new, updates, params, value)
    # Where int32 ends the step stays, as `+ 1` would make it negative.
    return updates, core.KeepSparseState(
      optax.safe_increment(state.step), decision.masks, memory, stepped, state.key
    )

  parts = _parts.Parts(inner, rule, when, seed, skip_step)
  return optax.GradientTransformationExtraArgs(init, _parts.attach(update, parts))


def _evidence(rule, state, trained, grads) -> core.Evidence:
  # A function of the step, so that a resumed run draws what it would have drawn.
  key = None if state.key is None else jax.random.fold_in(state.key, state.step)
  return core.Evidence(
    rule.fields(trained), None, rule.fields(grads), state.masks, state.step, key
  )


def _decide(rule, due, state, evidence, look_ahead, check) -> core.Decision:
  """The rule's decision when due, under a cond that returns nothing else.

  It comes before the optimizer, so that the optimizer, the reset of moments and the
  removal of what is off the mask stay one fused pass over the weights. The check runs
  under the same cond: all that follows needs its masks, so that XLA may overwrite the
  params in place instead of keeping a copy for the check to read.
  """
  grows = due is not None and rule.grown_value is not None
  # Both branches of a cond return one structure: no survivors where nothing grows.
  survivors = state.masks if grows else None
  unchanged = core.Decision(state.masks, survivors, state.memory)
  if due is None and check is None:
    return unchanged

  def decide():
    if due is None:
      # Always true here, which XLA cannot know: it must take the masks from the cond.
      masks = jax.tree.map(lambda m: m & (state.step > 0), state.masks)
      return unchanged._replace(masks=masks)
    seen = evidence
    if rule.decides_on_update:
      seen = evidence._replace(updated_params=look_ahead())
    decision = rule.update(seen, state.memory)
    if not grows:
      return decision._replace(survivors=None)
    if decision.survivors is None:
      both = jax.tree.map(jnp.logical_and, state.masks, decision.masks)
      return decision._replace(survivors=both)
    return decision

  if check is None:
    return jax.lax.cond(due, decide, lambda: unchanged)

  def check_and_decide():
    check()
    if due is None:
      return decide()
    # The second step is checked also when nothing is due in it.
    return jax.tree.map(lambda d, u: jnp.where(due, d, u), decide(), unchanged)

  second = state.step == 1
  soon = second if due is None else second | due
  return jax.lax.cond(soon, check_and_decide, lambda: unchanged)


def _start_grown(rule, inner, decision, params, old, evidence, inner_state):
  """What grown weights start from, before the optimizer steps.

  Returns `(new masks, starting values, kept, inner state)`. `kept` are the weights
  that this step trains; everything else gets a gradient of 0 and fresh moments, so
  that a weight that grows, now or later, has no past. That is cheaper than finding
  the grown ones, and reads the moments before they are overwritten.
  """
  new = spread(rule, decision.masks, params)
  if decision.survivors is None:
    # A rule that edits gradients itself gets the mask that they were taken at.
    masks_gradients = rule.edit_grads is core.mask_grads
    return new, None, new if masks_gradients else old, inner_state
  kept = spread(rule, decision.survivors, params)
  value = rule.grown_value(params, evidence._replace(decision=decision))
  started = jax.tree.map(jnp.where, kept, params, value)
  if rule.resets_moments:
    inner_state = _moments.reset(inner, started, inner_state, kept)
  return new, value, kept, inner_state


def _remove(mask, update, param):
  """`-param` off the mask, in a dtype that cancels the parameter exactly."""
  # Rounded to a bfloat16 update, a float32 parameter would leave a remainder.
  dtype = jnp.promote_types(update.dtype, param.dtype)
  return jnp.where(mask, update.astype(dtype), -param.astype(dtype))


def _start_or_remove(kept, mask, update, param, value):
  """The update on what is kept, `value - param` on what has grown, else `-param`."""
  dtype = jnp.promote_types(update.dtype, param.dtype)
  start = jnp.where(mask, value, jnp.zeros_like(value)).astype(dtype)
  return jnp.where(kept, update.astype(dtype), start - param.astype(dtype))


def _off_mask_check(params, masks, step):
  """A function that warns of nonzeros off the mask; None when it is not wanted."""
  # Read while tracing: a compiled step keeps the check that it has, or has not.
  if os.environ.get('JAXSPARSE_CHECK') == 'off' or not jax.tree.leaves(params):
    return None
  names, leaves, _ = core.named_leaves(params)

  def check():
    off = [
      # The params of step 0 may be dense: its own update is what removes them.
      jnp.any(~m & (p != 0)) & (step > 0)
      for m, p in zip(jax.tree.leaves(masks), leaves, strict=True)
    ]
    # One flag per leaf goes to the host; the arrays stay where they are.
    jax.debug.callback(functools.partial(_warn_off_mask, names), step, *off)

  return check


def _warn_off_mask(names, step, *off):
  bad = [name for name, flag in zip(names, off, strict=True) if flag]
  if bad:
    warnings.warn(
      f'jaxsparse: at step {int(step)} these parameters have nonzeros off their mask:'
      f' {", ".join(bad)}. Something changes them after the sparse transform: it must'
      ' wrap the whole chain (transform(optax.chain(...)), not chain(transform(...),'
      ' ...)), and params that were loaded or averaged need js.apply_masks.',
      RuntimeWarning,
      stacklevel=2,
    )
