"""The table: its text, and that its numbers are those of the other functions."""

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse as js
from jaxsparse import core

_EXPECTED = """\
+-------------+--------------+------+----------+--------+---------+----------+-------+-------------+--------------+
| Name        | Shape        | Axes | Dtype    | Kind   | Density | Nonzeros | Bytes | Dense FLOPs | Sparse FLOPs |
+-------------+--------------+------+----------+--------+---------+----------+-------+-------------+--------------+
| blocks      | (2, 6, 6)    | sio  | float32  | pruned |  25.00% |       18 |   288 |         288 |           72 |
| conv/bias   | (6,)         | .    | float32  | dense  | 100.00% |        6 |    24 |           0 |            0 |
| conv/kernel | (3, 3, 2, 6) | ..io | bfloat16 | pruned |  50.00% |       54 |   216 |           0 |            0 |
+-------------+--------------+------+----------+--------+---------+----------+-------+-------------+--------------+
Axes: i input, o output, s stacked layers, . window or none.
Weights: 186, kept 78; in pruned leaves 180, kept 72.
Sparsity: nominal 60.00% (pruned leaves), whole model 58.06% (all parameters).
Bytes held: parameters 528, masks 79, optimizer state 1,072.
FLOPs for the given inputs: dense 288, sparse 72 (25.00%, theoretical); 0 of both belong to no parameter."""


def _model():
  params = {
    'blocks': jnp.ones((2, 6, 6)),
    'conv': {'bias': jnp.ones(6), 'kernel': jnp.ones((3, 3, 2, 6), jnp.bfloat16)},
  }
  masks = {
    'blocks': jnp.arange(72).reshape(2, 6, 6) < 18,
    'conv': {
      'bias': jnp.ones((), bool),
      'kernel': jnp.arange(6).reshape(1, 1, 1, 6) % 2 == 0,
    },
  }
  return params, masks


def _state(params, masks):
  step, key = jnp.zeros((), jnp.int32), jax.random.key(0)
  return core.KeepSparseState(step, masks, (), optax.adam(0.1).init(params), key)


def test_the_whole_text():
  params, masks = _model()
  stack = lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p['blocks'])[0]
  flops = js.summary.flops(stack, params, jnp.ones((2, 6)), masks=masks)
  text = js.summary.table(
    params, _state(params, masks), leaves={'blocks': js.stacked()}, flops=flops
  )
  assert text.splitlines() == _EXPECTED.splitlines()


@pytest.mark.parametrize(
  ('mask', 'warning'),
  [
    (jnp.ones((), bool), 'WARNING: no leaf is pruned; the model is dense by design.'),
    (jnp.ones((2, 2), bool), 'WARNING: all masks are True; the model is not pruned'),
    (jnp.eye(2, dtype=bool), None),
  ],
)
def test_a_model_that_is_not_sparse_warns(mask, warning):
  text = js.summary.table({'kernel': jnp.ones((2, 2))}, {'kernel': mask})
  assert (warning in text) if warning else ('WARNING' not in text)


def test_linen_and_nnx_give_the_same_table():
  linen = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 6)))['params']
  state = nnx.state(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), nnx.Param)
  make = lambda p: (
    jnp.ones(p.shape, bool).at[0].set(False) if p.ndim > 1 else jnp.array(True)
  )
  texts = [js.summary.table(p, jax.tree.map(make, p)) for p in (linen, state)]
  assert texts[0] == texts[1]
  assert 'kernel' in texts[0] and '83.33%' in texts[0]


def test_notes_of_the_count_are_shown():
  params = {'w': jnp.ones((3, 3))}
  loop = lambda p, x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ p['w'], x)
  flops = js.summary.flops(loop, params, jnp.ones((2, 3)))
  assert 'Note: a while loop' in js.summary.table(params, flops=flops)


def test_bare_empty_and_zero_size():
  assert '| param | (2, 3) |' in js.summary.table(jnp.ones((2, 3)))
  assert '(no parameters)' in js.summary.table({})
  assert '(0, 3)' in js.summary.table({'a': jnp.ones((0, 3))})


def test_flops_of_another_type_are_refused():
  with pytest.raises(ValueError, match='flops: got int'):
    js.summary.table({'a': jnp.ones(3)}, flops=3)
