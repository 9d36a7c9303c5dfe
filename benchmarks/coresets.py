"""What selecting a coreset costs: CPU seconds of each method, compilation included.

  python benchmarks/coresets.py [--records=20000] [--kept=1000] [--only=craig,herding]

Records are clusters of 128 features in 10 classes; gradients are those of the last layer,
1,290 numbers a record that are never written out. CPU seconds, so that what else runs on
the machine counts little.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxsparse as js

CLASSES, FEATURES = 10, 128


def records(count):
  """Features, logits and labels."""
  rng = np.random.default_rng(0)
  labels = np.arange(count) % CLASSES
  centers = rng.normal(size=(CLASSES, FEATURES))
  features = np.maximum(centers[labels] + rng.normal(size=(count, FEATURES)), 0)
  logits = 4 * np.eye(CLASSES)[labels] + 2 * rng.normal(size=(count, CLASSES))
  return jnp.asarray(features), jnp.asarray(logits), jnp.asarray(labels)


def methods(count, kept):
  """`{name: function of nothing}`."""
  features, logits, labels = records(count)
  probs = jax.nn.softmax(logits)
  rows = js.data.last_layer_gradients(probs, labels, features)
  validation = (logits[:1000], labels[:1000], features[:1000])
  by_sample = functools.partial(js.data.facility_location, epsilon=0.1, seed=0)
  per_class = lambda select: js.data.per_class(select, rows, labels, kept)
  return {
    'moderate': lambda: js.data.moderate(features, labels, kept),
    'herding': lambda: js.data.herding(features, kept),
    'k_center_greedy': lambda: js.data.k_center_greedy(features, kept),
    'graph_cut': lambda: js.data.graph_cut(rows, kept),
    'mig': lambda: js.data.mig(features, kept),
    'ssp_prototypes': lambda: js.data.ssp_prototypes(features, CLASSES, seed=0),
    'cal': lambda: js.data.cal(probs, features),
    'glister': lambda: js.data.glister(rows, kept, *validation, learning_rate=0.1),
    'gradmatch': lambda: js.data.gradmatch(rows, kept),
    'gradmatch per class': lambda: per_class(js.data.gradmatch),
    'craig': lambda: js.data.craig(rows, kept),
    'craig per class': lambda: per_class(js.data.craig),
    'facility_location': lambda: js.data.facility_location(rows, kept),
    'facility_location, epsilon=0.1': lambda: by_sample(rows, kept),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--records', type=int, default=20000)
  parser.add_argument('--kept', type=int, default=1000)
  parser.add_argument('--only', help='names, with commas between')
  args = parser.parse_args()
  for name, method in methods(args.records, args.kept).items():
    if args.only is None or name in args.only.split(','):
      start = time.process_time()
      jax.block_until_ready(method())
      print(f'{name:32s} {time.process_time() - start:6.1f}', flush=True)


if __name__ == '__main__':
  main()
